//! Expressions and what comes of them.

use serde_json::json;

use crate::{Budget, CALL_COST_MAX, Declarations, Fault, Program, Type, Value, Variables, to_json};

fn declared() -> Declarations {
    let spec = Type::object(
        "spec",
        [
            ("replicas".to_owned(), Type::Int),
            ("names".to_owned(), Type::list(Type::String)),
            ("labels".to_owned(), Type::map(Type::String, Type::String)),
        ],
    );
    let own = Type::object("self", [("spec".to_owned(), spec), ("kind".to_owned(), Type::String)]);
    Declarations::default().with("self", own).with("object", Type::Dyn)
}

fn variables() -> Variables {
    let own = json!({
        "kind": "Web",
        "spec": {"replicas": 3, "names": ["a", "b", "a"], "labels": {"app": "web", "tier": "front"}, "ratio": 0.5},
    });
    Variables::default().with("self", (&own).into()).with("object", (&own).into())
}

fn value(text: &str) -> Result<serde_json::Value, String> {
    let program = Program::compile(text, &declared()).map_err(|wrong| wrong.to_string())?;
    let value = program.evaluate(&variables(), &mut Budget::new(CALL_COST_MAX)).map_err(|fault| fault.to_string())?;
    to_json(&value).map_err(|fault| fault.to_string())
}

/// All of these are true.
fn hold(expressions: &[&str]) {
    for text in expressions {
        assert_eq!(value(text), Ok(json!(true)), "{text}");
    }
}

#[test]
fn operators_select_and_compare() {
    hold(&[
        "1 + 2 * 3 == 7",
        "7 / 2 == 3 && 7 % 2 == 1 && -7 / 2 == -3",
        "1.5 + 1.5 == 3.0",
        "'a' + 'b' == \"ab\"",
        "[1, 2] + [3] == [1, 2, 3]",
        "1 < 2 && 'a' < 'b' && 2u > 1u",
        "object.spec.replicas > 1 ? true : false",
        "self.spec.replicas == 3",
        "object.spec.ratio < 1",
        "has(object.spec) && !has(object.status)",
        "'a' in self.spec.names && !('z' in self.spec.names)",
        "'app' in self.spec.labels && self.spec.labels['app'] == 'web'",
        "{'a': 1}.a == 1 && {1: 'x'}[1] == 'x'",
        "object.none == 1 || true",
        "!(object.none == 1 && false)",
        "b'abc'.size() == 3 && size('äö') == 2",
        "type(1) == int && type('a') == string",
        "0x10 == 16 && r'\\d' == '\\\\d'",
        "type(duration('1s')) == google.protobuf.Duration && type(ip('::1')) == net.IP",
        "self.kind != null && !(self.spec.replicas == null)",
        "null == null && object.spec != null",
    ]);
}

#[test]
fn macros_walk_over_lists_and_maps() {
    hold(&[
        "self.spec.names.all(n, n.size() == 1) && self.spec.names.exists(n, n == 'b')",
        "self.spec.names.exists_one(n, n == 'b') && !self.spec.names.exists_one(n, n == 'a')",
        "self.spec.names.map(n, n + '!') == ['a!', 'b!', 'a!']",
        "self.spec.names.filter(n, n != 'b') == ['a', 'a']",
        "[1, 2, 3].map(n, n > 1, n * 2) == [4, 6]",
        "self.spec.labels.all(k, k.startsWith('a') || k.startsWith('t'))",
        "self.spec.labels.all(k, v, k != v)",
        "['x', 'y'].exists(i, v, i == 1 && v == 'y')",
        "[1, 2].transformList(i, v, i + v) == [1, 3]",
        "{'a': 1, 'b': 2}.transformMap(k, v, v > 1, v * 10) == {'b': 20}",
        "{'a': 'b'}.transformMapEntry(k, v, {v: k}) == {'b': 'a'}",
        "[[1], [2, 3]].all(l, l.all(n, n > 0))",
        "[0, 1].exists(n, 1 / n == 1)",
    ]);
}

#[test]
fn optional_values() {
    hold(&[
        "object.?status.?phase.orValue('none') == 'none'",
        "object.?spec.replicas.orValue(0) == 3",
        "object.spec[?'names'].hasValue()",
        "[1][?3].orValue(9) == 9",
        "optional.of(2).optMap(v, v * 2).value() == 4",
        "optional.none().or(optional.of(1)).value() == 1",
        "[?object.?none, ?optional.of(1)] == [1]",
        "{?'a': object.?none, ?'b': optional.of(1)} == {'b': 1}",
    ]);
}

#[test]
fn texts_lists_and_sets() {
    hold(&[
        "'hello'.contains('ell') && 'hello'.matches('^h.*o$') && !'x'.matches('^y')",
        "'a,b,c'.split(',') == ['a', 'b', 'c'] && 'a,b,c'.split(',', 2) == ['a', 'b,c']",
        "['a', 'b'].join('-') == 'a-b' && ['a', 'b'].join() == 'ab'",
        "'tacocat'.substring(4) == 'cat' && 'tacocat'.substring(0, 4) == 'taco'",
        "'äbc'.indexOf('c') == 2 && 'abcabc'.lastIndexOf('b') == 4 && 'abc'.indexOf('z') == -1",
        "strings.quote('a\"b\\n') == '\"a\\\\\"b\\\\n\"'",
        "' x '.trim() == 'x' && 'Ab'.lowerAscii() == 'ab' && 'Ab'.upperAscii() == 'AB'",
        "'aaa'.replace('a', 'b', 2) == 'bba' && 'abc'.charAt(1) == 'b' && 'abc'.reverse() == 'cba'",
        "'abc 123 456'.find('[0-9]+') == '123' && 'abc 123 456'.findAll('[0-9]+') == ['123', '456']",
        "'%d of %s, %.2f, %x'.format([1, 'two', 3.14159, 255]) == '1 of two, 3.14, ff'",
        "[1, 2, 3].sum() == 6 && [3, 1].min() == 1 && [3, 1].max() == 3 && [1, 2].isSorted()",
        "[1, 2, 1].indexOf(1) == 0 && [1, 2, 1].lastIndexOf(1) == 2",
        "[3, 1, 2].sort() == [1, 2, 3] && [1, 1, 2].distinct() == [1, 2] && [1, 2, 3].slice(1, 3) == [2, 3]",
        "['bb', 'a'].sortBy(t, t.size()) == ['a', 'bb'] && lists.range(3).sortBy(n, -n) == [2, 1, 0]",
        "sets.contains([1, 2], [2]) && sets.intersects([1], [1, 2]) && sets.equivalent([1, 2], [2, 1, 1])",
        "math.greatest(1, 5, 3) == 5 && math.least([4, 2]) == 2",
        "string(1) == '1' && int('5') == 5 && double('1.5') == 1.5 && bool('true')",
        "jsonpatch.escapeKey('a/b~c') == 'a~1b~0c'",
    ]);
}

#[test]
fn what_kubernetes_adds() {
    hold(&[
        "quantity('1Gi').isGreaterThan(quantity('1000Mi')) && quantity('500m').add(quantity('500m')) == quantity('1')",
        "isQuantity('1k') && !isQuantity('1 k') && quantity('2').asInteger() == 2 && quantity('1').sub(2).sign() == -1",
        "url('https://user@example.com:8443/a?x=1&x=2').getHost() == 'example.com:8443'",
        "url('https://[::1]:80/').getHostname() == '::1' && url('https://e.org/a%20b?x=1').getQuery()['x'] == ['1']",
        "isURL('/absolute') && !isURL('not a url') && url('https://e.org:99/').getPort() == '99'",
        "semver('1.10.0').isGreaterThan(semver('1.9.9')) && semver('1.0.0-rc.2').isLessThan(semver('1.0.0'))",
        "isSemver('1.0.0-a.1+b') && !isSemver('1.0') && !isSemver('01.0.0') && isSemver('v01.2', true)",
        "semver('1.2.3').minor() == 2 && semver('1.0.0-rc.9').compareTo(semver('1.0.0-rc.10')) == -1",
        "isIP('10.0.0.1') && ip('::1').isLoopback() && ip('10.0.0.1').family() == 4 && !isIP('10.0.0.256')",
        "cidr('10.1.0.0/16').containsIP('10.1.2.3') && !cidr('10.1.0.0/16').containsIP('10.2.0.1')",
        "cidr('10.0.0.0/8').containsCIDR('10.1.0.0/16') && string(cidr('10.1.2.3/8').masked()) == '10.0.0.0/8'",
        "ip.isCanonical('::1') && !ip.isCanonical('0:0:0:0:0:0:0:1')",
        "['10.0.0.1'].all(ip, isIP(ip) && ip.size() == 8)",
        "!format.dns1123Label().validate('web-1').hasValue() && format.dns1123Label().validate('Web').hasValue()",
        "format.named('uuid').hasValue() && !format.named('none').hasValue()",
        "duration('1h30m').getMinutes() == 90 && duration('90s') == duration('1m30s')",
        "timestamp('2026-11-23T10:00:00Z').getFullYear() == 2026 && timestamp('2026-11-23T10:00:00Z').getMonth() == 10",
        "timestamp('2026-11-23T23:30:00Z').getDate('Europe/Berlin') == 24",
        "timestamp('2026-11-23T10:00:00Z') + duration('1h') == timestamp('2026-11-23T11:00:00Z')",
    ]);
}

#[test]
fn mistakes_are_told_before_there_are_values() {
    for (text, told) in [
        ("self.spec.replicas > '1'", "found no matching overload for '_>_' applied to '(int, string)'"),
        ("'n: ' + self.spec.replicas", "found no matching overload for '_+_' applied to '(string, int)'"),
        ("self.z", "undefined field 'z'"),
        ("other.x", "undeclared reference to 'other' (in container '')"),
        ("nothing(1)", "undeclared reference to 'nothing' (in container '')"),
        ("'a'.matches(1)", "found no matching overload for 'matches' applied to 'string.(int)'"),
        ("self.spec.replicas.all(x, true)", "cannot be range of a comprehension"),
        ("self.spec.names.all(n, n)", "found no matching overload for '_&&_' applied to '(bool, string)'"),
        ("... [] bad expression", "Syntax error"),
        ("self.spec.names.all(a.b, true)", "argument must be a simple name"),
        ("Object{a: 1}", "undeclared reference to 'Object'"),
        ("", "Syntax error"),
    ] {
        let wrong = Program::compile(text, &declared()).unwrap_err().to_string();
        assert!(wrong.starts_with("compilation failed: ERROR: <input>:1:") && wrong.contains(told), "{text}: {wrong}");
    }
    let wrong = Program::of_type("1 + 1", &declared(), &[Type::Bool]).unwrap_err().to_string();
    assert_eq!(wrong, "compilation failed: must evaluate to bool");
    let at = Program::compile("true &&\n  self.z", &declared()).unwrap_err().to_string();
    assert!(at.contains("ERROR: <input>:2:7: undefined field 'z'\n |   self.z\n | ......^"), "{at}");
}

#[test]
fn mistakes_that_only_values_show() {
    for (text, told) in [
        ("object.spec.none == 1", "no such key: none"),
        ("[1][5] == 1", "index out of bounds: 5"),
        ("1 / (self.spec.replicas - 3) == 1", "division by zero"),
        ("9223372036854775807 + 1 == 0", "integer overflow"),
        ("object.spec.replicas + 'a' == ''", "no such overload"),
        ("dyn('a').matches('(')", "error parsing regexp"),
        ("quantity('x') == quantity('1')", "quantit"),
    ] {
        let fault = value(text).unwrap_err();
        assert!(fault.contains(told), "{text}: {fault}");
    }
}

#[test]
fn objects_are_made_where_that_is_allowed() {
    let mut declared = declared();
    declared.makes_objects = true;
    let text = "Object{spec: Object.spec{replicas: object.spec.replicas + 1, ?labels: object.?none}}";
    let program = Program::compile(text, &declared).unwrap();
    let made = program.evaluate(&variables(), &mut Budget::new(1000)).unwrap();
    assert_eq!(to_json(&made).unwrap(), json!({"spec": {"replicas": 4}}));
    assert!(matches!(made, Value::Structure(made) if made.name == "Object"));
}

#[test]
fn nothing_costs_more_than_it_may() {
    let many = (0..60).map(|number| number.to_string()).collect::<Vec<_>>().join(",");
    let nested = |inner: &str| format!("[{many}].all(x, [{many}].all(y, {inner}))");
    let deep = nested(&nested("true").replace('x', "v").replace('y', "w"));
    let program = Program::compile(&deep, &declared()).unwrap();
    assert!(program.cost() > 10_000_000);
    let mut budget = Budget::new(CALL_COST_MAX);
    assert_eq!(program.evaluate(&variables(), &mut budget).unwrap_err(), Fault::Cost);
    assert!(budget.is_spent());

    let bounded = Program::compile("self.spec.names.all(n, n != '')", &declared()).unwrap();
    assert!((1_000_000..10_000_000).contains(&bounded.cost()), "{}", bounded.cost());
    let twice = Program::compile("self.spec.names.all(n, self.spec.names.all(m, n != m))", &declared()).unwrap();
    assert!(twice.cost() > 1_000_000_000_000);
}

#[test]
fn values_that_share_their_parts_are_not_walked_over_for_ever() {
    let nested = |step: &str, times: usize| "[".repeat(times) + "[1]" + &step.repeat(times);
    let huge = nested("].map(x, [x, x, x, x])", 40);
    for text in [
        format!("{huge} == {huge}"),
        format!("{huge} in [{huge}]"),
        format!("[{huge}].indexOf({huge}) == 0"),
        format!("[{huge}].distinct().size() == 1"),
        format!("sets.contains([{huge}], [{huge}])"),
        format!("'%s'.format([{huge}])"),
        nested("].map(x, [x, x, x, x, x, x, x, x])[0].flatten()", 30),
        "['aaaaaaaaaa']".to_owned() + &".map(x, x + x)".repeat(60),
        nested("].map(x, [x, x])", 60),
    ] {
        let fault = value(&text).unwrap_err();
        assert!(fault.contains("cost limit"), "{fault}: {}", &text[..40]);
    }
}

#[test]
fn long_and_deep_expressions_are_refused_and_do_no_harm() {
    for text in [
        "1+".repeat(4000) + "1",
        "1+".repeat(799) + "1",
        "(".repeat(990) + "1" + &")".repeat(990),
        "[".repeat(990) + &"]".repeat(990),
        "a.".repeat(799) + "b",
        "1 == ".repeat(799) + "1",
        ".f()".repeat(799),
        "(".repeat(4000) + "1",
        "[".repeat(4000),
        "a.".repeat(4000) + "b",
        "x".to_owned() + &"[0]".repeat(3000),
        "true ? 1 : ".repeat(800) + "1",
        "[1].map(x, ".repeat(300) + "1" + &")".repeat(300),
        "a".repeat(20_000),
    ] {
        assert!(Program::compile(&text, &declared()).is_err(), "{}", &text[..20]);
    }
    let wide = vec!["self.spec.replicas == 3"; 100].join(" && ");
    assert_eq!(value(&wide), Ok(json!(true)));
}

/// Pieces from which expressions are thrown together; many fit each other.
const PIECES: &[&str] = &[
    "self",
    "object",
    ".spec",
    ".replicas",
    ".names",
    ".?labels",
    ".kind",
    "[0]",
    "[?9]",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    ",",
    ":",
    "?",
    "&&",
    "||",
    "!",
    "-",
    "+",
    "*",
    "/",
    "%",
    "==",
    "<",
    "in",
    "1",
    "0",
    "-9223372036854775808",
    "2u",
    "0.5",
    "1e308",
    "'a'",
    "'äö'",
    "''",
    "b'x'",
    "null",
    "true",
    "has(",
    ".all(x,",
    ".map(x,",
    ".exists_one(x,",
    ".filter(x,",
    "x",
    ".size()",
    ".substring(1)",
    ".substring(0, 9)",
    ".indexOf('a')",
    ".lastIndexOf('ö', 3)",
    ".charAt(2)",
    ".split('')",
    ".replace('', 'a')",
    ".format([1, 'a'])",
    ".sum()",
    ".min()",
    ".slice(1, 0)",
    ".sort()",
    ".join()",
    ".matches('(a*)*')",
    "int(",
    "string(",
    "timestamp('0001-01-01T00:00:00Z')",
    "duration('-1h')",
    ".getDayOfWeek('-23:59')",
    "quantity('1Ki')",
    "cidr('::/0')",
    ".containsIP('::1')",
    "url('https://a')",
    ".getQuery()",
    "optional.of(",
    ".orValue(1)",
    "type(",
];

proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(300))]

    #[test]
    fn no_expression_brings_anybody_down(pieces in proptest::collection::vec(proptest::sample::select(PIECES), 1..12)) {
        let text = pieces.concat();
        for text in [text.clone(), format!("({text})"), format!("[{text}].map(x, x)")] {
            let _ = value(&text);
        }
    }

    #[test]
    fn no_text_brings_anybody_down(text in ".{0,40}") {
        let _ = value(&text);
    }
}
