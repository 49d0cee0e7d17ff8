//! Which functions there are, and for which types.
//!
//! A line a declaration: `name(types) type` for functions, `type.name(types) type` for members, with single capital
//! letters for types that may be any. What they do stands in `functions`.

use std::{collections::BTreeMap, sync::LazyLock};

use crate::types::Type;

const TABLE: &str = "
!_(bool) bool
-_(int) int
-_(double) double
_+_(int,int) int
_+_(uint,uint) uint
_+_(double,double) double
_+_(string,string) string
_+_(bytes,bytes) bytes
_+_(list(A),list(A)) list(A)
_+_(duration,duration) duration
_+_(timestamp,duration) timestamp
_+_(duration,timestamp) timestamp
_-_(int,int) int
_-_(uint,uint) uint
_-_(double,double) double
_-_(duration,duration) duration
_-_(timestamp,timestamp) duration
_-_(timestamp,duration) timestamp
_*_(int,int) int
_*_(uint,uint) uint
_*_(double,double) double
_/_(int,int) int
_/_(uint,uint) uint
_/_(double,double) double
_%_(int,int) int
_%_(uint,uint) uint
_==_(A,A) bool
_!=_(A,A) bool
COMPARED
@in(A,list(A)) bool
@in(A,map(A,B)) bool
_[_](list(A),int) A
_[_](map(A,B),A) B
_[?_](list(A),int) optional(A)
_[?_](map(A,B),A) optional(B)
_[?_](optional(list(A)),int) optional(A)
_[?_](optional(map(A,B)),A) optional(B)
size(string) int
size(bytes) int
size(list(A)) int
size(map(A,B)) int
string.size() int
bytes.size() int
list(A).size() int
map(A,B).size() int
bool(bool) bool
bool(string) bool
bytes(bytes) bytes
bytes(string) bytes
double(double) double
double(int) double
double(uint) double
double(string) double
duration(string) duration
duration(duration) duration
dyn(A) dyn
int(int) int
int(uint) int
int(double) int
int(string) int
int(timestamp) int
int(duration) int
string(string) string
string(bool) string
string(int) string
string(uint) string
string(double) string
string(bytes) string
string(timestamp) string
string(duration) string
string(ip) string
string(cidr) string
timestamp(string) timestamp
timestamp(int) timestamp
timestamp(timestamp) timestamp
type(A) type
uint(uint) uint
uint(int) uint
uint(double) uint
uint(string) uint
string.contains(string) bool
string.startsWith(string) bool
string.endsWith(string) bool
string.matches(string) bool
matches(string,string) bool
string.charAt(int) string
string.indexOf(string) int
string.indexOf(string,int) int
string.lastIndexOf(string) int
string.lastIndexOf(string,int) int
string.lowerAscii() string
string.upperAscii() string
string.replace(string,string) string
string.replace(string,string,int) string
string.split(string) list(string)
string.split(string,int) list(string)
string.substring(int) string
string.substring(int,int) string
string.trim() string
strings.quote(string) string
string.reverse() string
string.format(list(dyn)) string
list(string).join() string
list(string).join(string) string
string.find(string) string
string.findAll(string) list(string)
string.findAll(string,int) list(string)
list(A).indexOf(A) int
list(A).lastIndexOf(A) int
list(A).isSorted() bool
list(A).sum() A
list(A).min() A
list(A).max() A
list(A).slice(int,int) list(A)
list(A).distinct() list(A)
list(A).sort() list(A)
list(A).reverse() list(A)
list(A).flatten() list(dyn)
list(A).first() optional(A)
list(A).last() optional(A)
lists.range(int) list(int)
sets.contains(list(A),list(A)) bool
sets.intersects(list(A),list(A)) bool
sets.equivalent(list(A),list(A)) bool
optional.of(A) optional(A)
optional.ofNonZeroValue(A) optional(A)
optional.none() optional(A)
optional(A).hasValue() bool
optional(A).value() A
optional(A).orValue(A) A
optional(A).or(optional(A)) optional(A)
optional.unwrap(list(optional(A))) list(A)
list(optional(A)).unwrapOpt() list(A)
timestamp.getDate() int
timestamp.getDate(string) int
timestamp.getDayOfMonth() int
timestamp.getDayOfMonth(string) int
timestamp.getDayOfWeek() int
timestamp.getDayOfWeek(string) int
timestamp.getDayOfYear() int
timestamp.getDayOfYear(string) int
timestamp.getFullYear() int
timestamp.getFullYear(string) int
timestamp.getMonth() int
timestamp.getMonth(string) int
timestamp.getHours() int
timestamp.getHours(string) int
timestamp.getMinutes() int
timestamp.getMinutes(string) int
timestamp.getSeconds() int
timestamp.getSeconds(string) int
timestamp.getMilliseconds() int
timestamp.getMilliseconds(string) int
duration.getHours() int
duration.getMinutes() int
duration.getSeconds() int
duration.getMilliseconds() int
quantity(string) quantity
isQuantity(string) bool
quantity.isInteger() bool
quantity.asInteger() int
quantity.asApproximateFloat() double
quantity.sign() int
quantity.add(quantity) quantity
quantity.add(int) quantity
quantity.sub(quantity) quantity
quantity.sub(int) quantity
quantity.compareTo(quantity) int
quantity.isGreaterThan(quantity) bool
quantity.isLessThan(quantity) bool
semver(string) semver
semver(string,bool) semver
isSemver(string) bool
isSemver(string,bool) bool
semver.major() int
semver.minor() int
semver.patch() int
semver.compareTo(semver) int
semver.isLessThan(semver) bool
semver.isGreaterThan(semver) bool
url(string) url
isURL(string) bool
url.getScheme() string
url.getHost() string
url.getHostname() string
url.getPort() string
url.getEscapedPath() string
url.getQuery() map(string,list(string))
ip(string) ip
isIP(string) bool
ip::isCanonical(string) bool
ip.family() int
ip.isUnspecified() bool
ip.isLoopback() bool
ip.isLinkLocalMulticast() bool
ip.isLinkLocalUnicast() bool
ip.isGlobalUnicast() bool
cidr(string) cidr
isCIDR(string) bool
cidr.containsIP(ip) bool
cidr.containsIP(string) bool
cidr.containsCIDR(cidr) bool
cidr.containsCIDR(string) bool
cidr.ip() ip
cidr.masked() cidr
cidr.prefixLength() int
format::named(string) optional(format)
format::dns1123Label() format
format::dns1123Subdomain() format
format::dns1035Label() format
format::qualifiedName() format
format::dns1123LabelPrefix() format
format::dns1123SubdomainPrefix() format
format::dns1035LabelPrefix() format
format::labelValue() format
format::uri() format
format::uuid() format
format::byte() format
format::date() format
format::datetime() format
format.validate(string) optional(list(string))
jsonpatch.escapeKey(string) string
authorizer.path(string) pathcheck
authorizer.group(string) groupcheck
authorizer.serviceAccount(string,string) authorizer
groupcheck.resource(string) resourcecheck
resourcecheck.subresource(string) resourcecheck
resourcecheck.namespace(string) resourcecheck
resourcecheck.name(string) resourcecheck
resourcecheck.fieldSelector(string) resourcecheck
resourcecheck.labelSelector(string) resourcecheck
resourcecheck.check(string) decision
pathcheck.check(string) decision
decision.allowed() bool
decision.reason() string
decision.errored() bool
decision.error() string
math.greatest(A,A) A
math.least(A,A) A
math.greatest(list(A)) A
math.least(list(A)) A
math.abs(int) int
math.abs(double) double
math.ceil(double) double
math.floor(double) double
math.round(double) double
math.trunc(double) double
math.sign(int) int
math.sign(double) double
";

/// What can be put into an order with what.
const COMPARED: &[&str] = &["bool", "int", "uint", "double", "string", "bytes", "duration", "timestamp"];

/// One declaration.
pub struct Declared {
    pub is_member: bool,
    pub args: Vec<Type>,
    pub result: Type,
}

/// The declarations of a name.
pub fn named(name: &str) -> &'static [Declared] {
    static ALL: LazyLock<BTreeMap<String, Vec<Declared>>> = LazyLock::new(all);
    ALL.get(name).map_or(&[], Vec::as_slice)
}

fn all() -> BTreeMap<String, Vec<Declared>> {
    let mut all: BTreeMap<String, Vec<Declared>> = BTreeMap::new();
    let mut add = |line: &str| {
        if let Some((name, declared)) = line_of(line) {
            all.entry(name).or_default().push(declared);
        }
    };
    for line in TABLE.lines().filter(|line| !line.is_empty()) {
        if line != "COMPARED" {
            add(line);
            continue;
        }
        for operator in ["_<_", "_<=_", "_>_", "_>=_"] {
            COMPARED.iter().for_each(|type_| add(&format!("{operator}({type_},{type_}) bool")));
            for (one, other) in [("int", "uint"), ("int", "double"), ("uint", "double")] {
                add(&format!("{operator}({one},{other}) bool"));
                add(&format!("{operator}({other},{one}) bool"));
            }
        }
    }
    all
}

/// Reads a line of the table.
fn line_of(line: &str) -> Option<(String, Declared)> {
    // The arguments are in the last brackets before the blank; a member's own type may have brackets too.
    let (head, result) = line.rsplit_once(' ')?;
    let mut depth = 0;
    let open = head.char_indices().rev().find_map(|(at, letter)| {
        depth += match letter {
            ')' => 1,
            '(' => -1,
            _ => 0,
        };
        (depth == 0).then_some(at)
    })?;
    let (name, args) = (&head[..open], &head[open + 1..head.len() - 1]);
    let mut args = types(args);
    // `sets`, `optional` and the like are part of the name; a type before the dot makes a member. Where a type has the
    // same name as such a part, two colons tell them apart.
    let member = name.rsplit_once('.').and_then(|(of, name)| Some((type_of(of)?, name.to_owned())));
    let (is_member, name) = match member {
        Some((of, name)) => {
            args.insert(0, of);
            (true, name)
        }
        None => (false, name.replace("::", ".")),
    };
    Some((name, Declared { is_member, args, result: type_of(result)? }))
}

/// Types with commas between them.
fn types(text: &str) -> Vec<Type> {
    let (mut types, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, letter) in text.char_indices().chain([(text.len(), ',')]) {
        match letter {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                types.extend(type_of(&text[start..at]));
                start = at + 1;
            }
            _ => {}
        }
    }
    types
}

fn type_of(text: &str) -> Option<Type> {
    if let Some((name, rest)) = text.split_once('(') {
        let mut inner = types(rest.strip_suffix(')')?).into_iter();
        return Some(match name {
            "list" => Type::list(inner.next()?),
            "map" => Type::map(inner.next()?, inner.next()?),
            "optional" => Type::Optional(inner.next()?.into()),
            _ => return None,
        });
    }
    Some(match text {
        "bool" => Type::Bool,
        "int" => Type::Int,
        "uint" => Type::Uint,
        "double" => Type::Double,
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "duration" => Type::Duration,
        "timestamp" => Type::Timestamp,
        "type" => Type::Type,
        "dyn" => Type::Dyn,
        "quantity" => Type::Named("kubernetes.Quantity"),
        "url" => Type::Named("kubernetes.URL"),
        "semver" => Type::Named("kubernetes.Semver"),
        "ip" => Type::Named("net.IP"),
        "cidr" => Type::Named("net.CIDR"),
        "format" => Type::Named("kubernetes.NamedFormat"),
        "authorizer" => Type::Named("kubernetes.authorization.Authorizer"),
        "pathcheck" => Type::Named("kubernetes.authorization.PathCheck"),
        "groupcheck" => Type::Named("kubernetes.authorization.GroupCheck"),
        "resourcecheck" => Type::Named("kubernetes.authorization.ResourceCheck"),
        "decision" => Type::Named("kubernetes.authorization.Decision"),
        "A" => Type::Param('A'),
        "B" => Type::Param('B'),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_table_is_a_declaration() {
        for line in TABLE.lines().filter(|line| !line.is_empty() && *line != "COMPARED") {
            assert!(line_of(line).is_some(), "{line}");
        }
        assert!(named("size").iter().any(|declared| declared.is_member));
        assert!(named("optional.of").iter().all(|declared| !declared.is_member));
        assert!(named("or").iter().all(|declared| declared.is_member && declared.args.len() == 2));
    }
}
