//! Who waits for whom, told by seats and queues.

use copepod_access::Attributes;
use copepod_api::k8s_openapi::api::flowcontrol::v1::{FlowSchema, PriorityLevelConfiguration};

use super::*;

fn user(name: &str, groups: &[&str]) -> User {
    let groups = groups.iter().map(|group| Arc::from(*group)).collect();
    User { groups, ..User::system(name) }
}

fn all<T: Typed>() -> Vec<T> {
    let own = defaults::all().into_iter().filter(|default| default["kind"] == T::KIND);
    own.map(|default| serde_json::from_value(default).unwrap()).collect()
}

fn wish(verb: &'static str, group: &'static str, resource: &'static str, namespace: &'static str) -> Wish<'static> {
    Wish::Object(Attributes { verb, group, resource, namespace, ..Attributes::default() })
}

#[test]
fn requests_are_classified_as_upstream_classifies_them() {
    let plan = Plan::new(all::<FlowSchema>(), &all::<PriorityLevelConfiguration>(), 600);
    let class = |user: &User, wish: &Wish<'_>| {
        let class = plan.classify(user, wish).unwrap();
        format!("{} {} {}", class.schema, class.level, class.distinguisher)
    };
    let everybody = "system:authenticated";
    let admin = user("admin", &["system:masters", everybody]);
    let node = user("system:node:n1", &["system:nodes", everybody]);
    let joe = user("joe", &[everybody]);
    let account = user("system:serviceaccount:shop:web", &["system:serviceaccounts", everybody]);
    let system = user("system:serviceaccount:kube-system:dns", &["system:serviceaccounts", everybody]);
    let pods = wish("list", "", "pods", "default");
    let lease = wish("update", "coordination.k8s.io", "leases", "kube-node-lease");
    assert_eq!(class(&admin, &pods), "exempt exempt ");
    assert_eq!(class(&joe, &Wish::Path { verb: "get", path: "/healthz" }), "probes exempt ");
    assert_eq!(class(&joe, &Wish::Path { verb: "get", path: "/healthz/log" }), "global-default global-default joe");
    assert_eq!(class(&node, &lease), "system-node-high node-high system:node:n1");
    assert_eq!(class(&node, &wish("patch", "", "nodes", "")), "system-node-high node-high system:node:n1");
    assert_eq!(class(&node, &pods), "system-nodes system system:node:n1");
    assert_eq!(class(&system, &lease), "system-leader-election leader-election system:serviceaccount:kube-system:dns");
    assert_eq!(class(&system, &pods), "kube-system-service-accounts workload-high default");
    assert_eq!(class(&account, &lease), "service-accounts workload-low system:serviceaccount:shop:web");
    assert_eq!(class(&joe, &pods), "global-default global-default joe");
    assert_eq!(class(&user("nobody", &[]), &pods), "catch-all catch-all nobody");
}

#[test]
fn seats_are_shared_by_shares() {
    let limits = Plan::new(all::<FlowSchema>(), &all::<PriorityLevelConfiguration>(), 600).limits();
    let levels::Limits::Limited { seats, lendable, queuing, .. } = &limits["workload-low"] else { panic!() };
    assert_eq!((*seats, *lendable, queuing.unwrap().queues), (245, 220, 128));
    assert_eq!(limits["exempt"], levels::Limits::Exempt);
}

#[tokio::test]
async fn a_greedy_user_is_told_to_come_later_and_others_are_served() {
    let fairness = Arc::new(Fairness::with_seats(8));
    let view = View::default();
    let joe = user("joe", &["system:authenticated"]);
    let pods = wish("list", "", "pods", "default");
    let mut seats = Vec::new();
    let mut waiting = tokio::task::JoinSet::new();
    loop {
        let seat = fairness.seat(&view, &joe, &pods);
        let mut seat = Box::pin(seat);
        match futures::poll!(&mut seat) {
            std::task::Poll::Ready(Ok(seat)) => seats.push(seat),
            std::task::Poll::Ready(Err(status)) => {
                assert_eq!((status.code(), status.details().unwrap().retry_after_seconds), (429, Some(1)));
                break;
            }
            std::task::Poll::Pending => {
                let (fairness, view, joe) = (fairness.clone(), view.clone(), joe.clone());
                drop(seat);
                waiting.spawn(async move { fairness.seat(&view, &joe, &wish("list", "", "pods", "default")).await });
                tokio::task::yield_now().await;
            }
        }
    }
    assert!(waiting.len() >= 200, "{}", waiting.len());
    // Somebody else, a node and an administrator.
    let node = user("system:node:n1", &["system:nodes", "system:authenticated"]);
    drop(fairness.seat(&view, &node, &pods).await.unwrap());
    drop(fairness.seat(&view, &user("root", &["system:masters"]), &pods).await.unwrap());
    let ann = user("ann", &["system:authenticated"]);
    let mut hers = Box::pin(fairness.seat(&view, &ann, &pods));
    assert!(futures::poll!(&mut hers).is_pending());
    // Those who gave up leave no trace, and a seat that is free goes to who waits.
    waiting.abort_all();
    while waiting.join_next().await.is_some() {}
    drop(seats);
    let hers = hers.await.unwrap();
    let taken: u32 = fairness.usage().iter().map(|(_, in_use, waiting)| in_use + *waiting as u32).sum();
    assert_eq!(taken, 1);
    drop(hers);
}

#[tokio::test]
async fn a_long_answer_keeps_its_seat_until_it_is_sent_or_takes_too_long() {
    let fairness = Arc::new(Fairness::with_seats(8));
    let joe = user("joe", &["system:authenticated"]);
    let taken = || fairness.usage().iter().map(|(_, in_use, _)| in_use).sum::<u32>();
    let answer = async |is_long: bool| {
        let seat = fairness.seat(&View::default(), &joe, &wish("list", "", "pods", "default")).await.unwrap();
        let pieces = ["one", "two"].map(|piece| Ok::<_, axum::Error>(bytes::Bytes::from(piece)));
        let body = axum::body::Body::from_stream(futures::stream::iter(pieces));
        seat.settle(if is_long { crate::answer::long("text/plain", body) } else { Response::new(body) })
    };
    let short = answer(false).await;
    assert_eq!(taken(), 0);
    let long = answer(true).await;
    assert_eq!(taken(), 1);
    assert_eq!(axum::body::to_bytes(long.into_body(), 100).await.unwrap(), "onetwo");
    assert_eq!(taken(), 0);
    let unread = answer(true).await;
    assert_eq!(taken(), 1);
    tokio::time::pause();
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert_eq!(taken(), 0);
    drop((short, unread));
}
