//! What each connection calls: inference goes straight to its handler, all else through the router,
//! whose layers would take a sixth of the time that a small request has.

use std::{convert::Infallible, pin::Pin};

use axum::{
    Router,
    response::{IntoResponse, Response},
};
use futures_util::FutureExt;
use http::{Method, Request};
use hyper::{body::Incoming, service::Service};
use hyper_util::service::TowerToHyperService;

use super::{
    Shared, contained, infer,
    linger::{Lingering, read_out_at_the_end},
    target::Target,
};

/// See the module. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Front {
    app: Shared,
    room: Lingering,
    router: TowerToHyperService<Router>,
}

impl Front {
    /// All routes.
    pub(crate) fn new(app: Shared) -> Front {
        let room = Lingering::new();
        let router = TowerToHyperService::new(super::router(app.clone(), room.clone()));
        Front { app, room, router }
    }
}

impl Service<Request<Incoming>> for Front {
    type Response = Response;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let target = if *request.method() == Method::POST { Target::of_inference(request.uri().path()) } else { None };
        let Some(target) = target else { return Box::pin(self.router.call(request)) };
        let (app, room) = (self.app.clone(), self.room.clone());
        let (method, uri) = (request.method().clone(), request.uri().clone());
        let answer = async move {
            match target {
                Ok(target) => infer::infer_body(&app, target, read_out_at_the_end(request, room)).await.into_response(),
                Err(e) => super::error::ApiError(e).into_response(),
            }
        };
        Box::pin(contained(method, uri, answer).map(Ok))
    }
}
