//! The collections that grant.

use copepod_api::Resource;

pub const GROUP: &str = "rbac.authorization.k8s.io";

pub const ROLES: Resource = Resource::known(GROUP, "roles");
pub const CLUSTER_ROLES: Resource = Resource::known(GROUP, "clusterroles");
pub const ROLE_BINDINGS: Resource = Resource::known(GROUP, "rolebindings");
pub const CLUSTER_ROLE_BINDINGS: Resource = Resource::known(GROUP, "clusterrolebindings");
