//! Where every request comes in: who asks, for what, may they; then to the one who answers.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Instant};

use axum::{
    Router,
    extract::{Request, State},
    response::Response,
    routing::any,
};
use copepod_access::Wish;
use copepod_api::{Status, StatusResult, User, resource::SERVICE_ACCOUNTS};
use copepod_registry::{Catalog, Converter};
use copepod_store::{Door, View};
use futures::FutureExt;
use http::{HeaderValue, Method, header::CACHE_CONTROL};

use crate::{
    Config, Tunnels,
    accept::{self, Offer, Wanted},
    access::{self, Access},
    aggregation::{self, told::Told},
    answer,
    body::{self, Bodies},
    compress, discovery,
    fairness::{Class, Fairness},
    fanout::Fanouts,
    forward, health, list, logs,
    metrics::{Labels, Metrics},
    openapi,
    path::{Asked, Place},
    proxy,
    query::Query,
    read, reviews, streams,
    tokens::{self, Keys},
    versions::Versions,
    watch,
    webhooks::Webhooks,
    who, write,
};

/// Prometheus' text format.
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";

pub struct Front {
    pub door: Arc<dyn Door>,
    pub tunnels: Arc<dyn Tunnels>,
    pub config: Config,
    pub bodies: Bodies,
    pub access: Access,
    pub fairness: Arc<Fairness>,
    pub places: streams::Places,
    pub webhooks: Webhooks,
    pub versions: Arc<Versions>,
    pub fanouts: Fanouts,
    pub told: Told,
    pub keys: Keys,
    pub metrics: Arc<Metrics>,
}

impl Front {
    pub fn new(door: Arc<dyn Door>, tunnels: Arc<dyn Tunnels>, config: Config) -> Front {
        let webhooks = Webhooks::new(tunnels.clone());
        Front {
            door,
            versions: Arc::new(Versions::new(webhooks.clone())),
            webhooks,
            fanouts: Fanouts::default(),
            tunnels,
            config,
            bodies: Bodies::default(),
            access: Access::default(),
            fairness: Arc::default(),
            told: Told::default(),
            keys: Keys::default(),
            places: streams::Places::default(),
            metrics: Arc::default(),
        }
    }
}

pub fn router(front: Front) -> Router {
    Router::new().route("/", any(handle)).route("/{*path}", any(handle)).with_state(Arc::new(front))
}

async fn handle(State(front): State<Arc<Front>>, request: Request) -> Response {
    let encoding = accept::of_refusal(request.headers(), request.uri());
    let takes_gzip = compress::is_taken(request.headers());
    let since = Instant::now();
    let mut counted = Counted { labels: Labels::of_path(), class: None };
    // A fault of ours costs this request and not the others on its connection.
    let mut response = match AssertUnwindSafe(answer(&front, request, &mut counted)).catch_unwind().await {
        Ok(Ok(response)) => response,
        Ok(Err(status)) => answer::refusal(&status, encoding),
        Err(_) => answer::refusal(&Status::internal("this request met a fault in the server; see its log"), encoding),
    };
    // What is read here is for this client, and tomorrow it is different.
    if !response.headers().contains_key(CACHE_CONTROL) {
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    }
    if let Some(class) = &counted.class {
        class.mark(&mut response);
    }
    front.metrics.end(&counted.labels, response.status().as_u16(), since);
    if takes_gzip { compress::compressed(response) } else { response }
}

/// What a request counts as; known as soon as somebody looked at it.
struct Counted {
    labels: Labels,
    class: Option<Class>,
}

async fn answer(front: &Arc<Front>, request: Request, counted: &mut Counted) -> StatusResult<Response> {
    let view = front.door.view();
    let catalog = Catalog::of(&view);
    if let Some((parts, remote)) = aggregation::of_path(&view, request.uri().path()) {
        return elsewhere(front, request, (parts, remote), &view, counted).await;
    }
    let place = Place::of(request.uri().path(), &catalog)?;
    if let Place::Health(probe, check) = &place {
        return health::answer(&*front.door, *probe, check.as_deref(), request.uri());
    }
    if let Place::Version = place {
        return Ok(health::version());
    }

    let judge = front.access.at(&view);
    let user = who::user(front, &judge, who::caller(&request), request.headers()).await?;
    let query = Query::of(request.uri())?;
    match place {
        Place::Object(asked) => {
            let verb = verb(request.method(), &asked, &query)?;
            let is_apply = body::media_type(request.headers()).starts_with("application/apply-patch");
            counted.labels = Labels::of(&asked, verb, is_apply, query.text("dryRun").is_some());
            let _under_way = front.metrics.begin(&counted.labels);
            let seat = {
                let wish = access::wish(&asked, verb, &query);
                let seat = front.fairness.seat(&view, &user, &wish).await?;
                counted.class = Some(seat.class());
                judge.check(&user, &wish)?;
                seat
            };
            let response = about_objects(front, request, user, asked, verb, query).await?;
            Ok(seat.settle(response))
        }
        Place::Review { review, namespace } => {
            let wish = Wish::Object(review.wish(&namespace));
            let seat = front.fairness.seat(&view, &user, &wish).await?;
            counted.class = Some(seat.class());
            reviews::answer(front, request, &user, &judge, (review, &namespace)).await
        }
        place => {
            let verb = request.method().as_str().to_lowercase();
            let wish = Wish::Path { verb: &verb, path: request.uri().path() };
            let seat = front.fairness.seat(&view, &user, &wish).await?;
            counted.class = Some(seat.class());
            judge.check(&user, &wish)?;
            if request.method() != Method::GET {
                return Err(Status::method_not_allowed("only GET is supported here"));
            }
            match place {
                Place::Issuer => Ok(tokens::issuer()),
                Place::IssuerKeys => tokens::issuer_keys(front),
                Place::Metrics => Ok(answer::typed(200, METRICS, front.metrics.text(&view, &front.fairness))),
                Place::OpenApi(Some(path)) => match aggregation::documents::owner(&view, &path) {
                    Some(remote) => aggregation::answer(front, request, &user, &remote).await,
                    None => {
                        let (uri, headers) = (request.uri(), request.headers());
                        openapi::answer(Some(&path), catalog, Default::default(), uri, headers).await
                    }
                },
                place => offered(front, request, &user, &view, place).await,
            }
        }
    }
}

/// What there is to be had here, programs included: they are asked by the leader.
async fn offered(
    front: &Arc<Front>,
    request: Request,
    user: &User,
    view: &View,
    place: Place,
) -> StatusResult<Response> {
    let (catalog, registrations) = (Catalog::of(view), aggregation::Registrations::of(view));
    let is_forwarded = who::is_forwarded(&request);
    let (request, _) = request.into_parts();
    let asks_programs = match &place {
        Place::OpenApiV2 | Place::OpenApi(_) => true,
        place => discovery::is_aggregated(place, &request.headers),
    };
    if asks_programs
        && let Some(response) = discovery::at_leader(front, &request, is_forwarded, user, &registrations).await?
    {
        return Ok(response);
    }
    match place {
        Place::OpenApiV2 => {
            let programs = aggregation::documents::second(front, view).await;
            openapi::answer_v2(catalog, programs, &request.headers).await
        }
        Place::OpenApi(path) => {
            let programs = aggregation::documents::index(front, view).await;
            openapi::answer(path.as_deref(), catalog, programs, &request.uri, &request.headers).await
        }
        place => {
            let versions = match asks_programs {
                true => aggregation::told::versions(front, view).await,
                false => Default::default(),
            };
            let offer = discovery::Offer { catalog: &catalog, registrations: &registrations, versions };
            discovery::answer(&place, &offer, &request.headers)
        }
    }
}

/// What a program serves that is not this server.
async fn elsewhere(
    front: &Arc<Front>,
    request: Request,
    (parts, remote): (aggregation::Parts, aggregation::Remote),
    view: &View,
    counted: &mut Counted,
) -> StatusResult<Response> {
    let judge = front.access.at(view);
    let user = who::user(front, &judge, who::caller(&request), request.headers()).await?;
    let query = Query::of(request.uri())?;
    let path = request.uri().path().to_owned();
    let wish = parts.wish(&path, parts.verb(request.method(), &query));
    let seat = front.fairness.seat(view, &user, &wish).await?;
    counted.class = Some(seat.class());
    judge.check(&user, &wish)?;
    let response = aggregation::answer(front, request, &user, &remote).await?;
    Ok(seat.settle(response))
}

async fn about_objects(
    front: &Arc<Front>,
    request: Request,
    user: User,
    asked: Asked,
    verb: &'static str,
    query: Query,
) -> StatusResult<Response> {
    if verb == "get" && &*asked.subresource == "log" {
        return logs::answer(front, request, &user, &asked, &query).await;
    }
    if proxy::is_proxy(&asked) {
        return proxy::answer(front, request, &user, &asked).await;
    }
    if streams::is_stream(&asked) {
        return streams::answer(front, request, &user, &asked, &query).await;
    }
    if asked.row.kind.resource() == SERVICE_ACCOUNTS && &*asked.subresource == "token" {
        return tokens::issue(front, request, &user, &asked).await;
    }
    let reads = ["get", "list", "watch"].contains(&verb);
    let asks_a_pod = asked.row.converter().is_some_and(Converter::is_in_cluster);
    let request = match reads && asks_a_pod {
        false => request,
        // The nodes hold their sessions to the leader.
        true => match forward::switch(&*front.door, front.config.forwarder.as_ref(), &user, request).await? {
            forward::Switched::Here(request) => request,
            forward::Switched::Done(response) => return Ok(response),
        },
    };
    let has_message = copepod_protobuf::known(&asked.row.kind.api_version(), &asked.row.kind.name).is_some();
    let wanted = Wanted::of(request.headers(), request.uri(), Offer { has_message, has_shapes: true })?;
    match verb {
        "get" => read::answer(front, &asked, &query, &wanted).await,
        "list" => list::answer(front, &asked, &query, &wanted).await,
        "watch" => watch::answer(front, asked, &query, wanted).await,
        _ => write::answer(front, request, user, &asked, verb, &query, &wanted).await,
    }
}

/// Kubernetes' verb for a method on a path, if the row allows it.
fn verb(method: &Method, asked: &Asked, query: &Query) -> StatusResult<&'static str> {
    let is_collection = asked.name.is_empty();
    let verb = match *method {
        Method::GET if is_collection && query.flag("watch")? => "watch",
        Method::GET if is_collection => "list",
        Method::GET => "get",
        Method::HEAD | Method::OPTIONS if proxy::is_proxy(asked) => "get",
        Method::POST if is_collection || !asked.subresource.is_empty() => "create",
        Method::PUT if !is_collection => "update",
        Method::PATCH if !is_collection => "patch",
        Method::DELETE if is_collection => "deletecollection",
        Method::DELETE => "delete",
        _ => "",
    };
    let allowed =
        if asked.subresource.is_empty() { asked.row.verbs } else { asked.row.subresource_verbs(&asked.subresource) };
    let everywhere = asked.row.kind.is_namespaced() && asked.namespace.is_empty();
    if verb.is_empty() || !allowed.contains(&verb) || (everywhere && !["list", "watch"].contains(&verb)) {
        return Err(Status::method_not_allowed("the server does not allow this method on the requested resource"));
    }
    Ok(verb)
}
