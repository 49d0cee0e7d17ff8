//! Which objects of a collection a list, a watch or a deletion is about.

use std::sync::Arc;

use copepod_api::{FieldSelector, Key, LabelSelector, Name, Object, Status, StatusResult, resource::PODS};
use copepod_registry::Row;
use copepod_store::View;

use crate::{front::Front, path::Asked, query::Query};

pub struct Selection {
    row: Arc<Row>,
    namespace: Option<String>,
    labels: LabelSelector,
    fields: FieldSelector,
}

impl Selection {
    pub fn of(asked: &Asked, query: &Query) -> StatusResult<Selection> {
        let labels = LabelSelector::parse(query.text("labelSelector").unwrap_or_default())
            .map_err(|error| Status::bad_request(format!("unable to parse requirement: {error}")))?;
        let fields =
            FieldSelector::parse(query.text("fieldSelector").unwrap_or_default()).map_err(Status::bad_request)?;
        for (field, ..) in fields.requirements() {
            if !asked.row.fields().any(|known| known == field) {
                let known: Vec<&str> = asked.row.fields().collect();
                return Err(Status::bad_request(format!(
                    "field label not supported: {field}; {} can be selected by {}",
                    asked.row.kind.plural,
                    known.join(", ")
                )));
            }
        }
        Ok(Selection { row: asked.row.clone(), namespace: asked.namespace().map(str::to_owned), labels, fields })
    }

    /// Without selectors, how many objects there are is known without looking at each.
    pub fn is_everything(&self) -> bool {
        self.labels.is_everything() && self.fields.is_everything()
    }

    /// How many there are, if there is no selector.
    pub fn count(&self, view: &View) -> usize {
        view.count_in(&self.row.resource(), self.namespace.as_deref())
    }

    /// Whether there is an object of that name now.
    pub fn is_live(&self, view: &View, name: &Name) -> bool {
        view.object(&Key { resource: self.row.resource(), name: name.clone() }).is_some()
    }

    pub fn row(&self) -> &Arc<Row> {
        &self.row
    }

    /// What is stored must be converted before it is known whether it matches.
    pub fn needs_conversion(&self) -> bool {
        self.row.converter().is_some()
    }

    pub fn matches(&self, object: &Object) -> bool {
        self.is_in_namespace(&object.key.name)
            && self.labels.matches(&object.meta.labels)
            && (self.fields.is_everything() || self.fields.matches(|field| self.row.field(object, field)))
    }

    pub fn is_in_namespace(&self, name: &Name) -> bool {
        self.namespace.as_deref().is_none_or(|namespace| namespace == &*name.namespace)
    }

    /// The objects that may match, in order: by an index where there is one.
    pub fn candidates<'a>(
        &'a self,
        view: &'a View,
        after: Option<&'a Name>,
    ) -> Box<dyn Iterator<Item = &'a Arc<Object>> + Send + 'a> {
        let resource = self.row.resource();
        let later = move |object: &&Arc<Object>| after.is_none_or(|after| object.key.name > *after);
        if let Some(name) = self.required("metadata.name")
            && (self.namespace.is_some() || !self.row.kind.is_namespaced())
        {
            let key = Key::new(resource, self.namespace.as_deref().unwrap_or_default(), name);
            return Box::new(view.object(&key).into_iter().filter(later));
        }
        if let (true, Some(node)) = (resource == PODS, self.required("spec.nodeName").filter(|node| !node.is_empty())) {
            return Box::new(view.pods_on(node).filter(later));
        }
        match after {
            Some(after) => view.objects_after(&resource, self.namespace.as_deref(), after),
            None => view.objects(&resource, self.namespace.as_deref()),
        }
    }

    /// All objects that match, as they are in this version.
    pub async fn all(&self, front: &Front, view: &View) -> StatusResult<Vec<Arc<Object>>> {
        let is_known = !self.needs_conversion();
        let candidates = self.candidates(view, None).filter(|object| !is_known || self.matches(object));
        let mut objects = front.versions.all(view, &self.row, candidates.cloned().collect()).await?;
        objects.retain(|object| is_known || self.matches(object));
        Ok(objects)
    }

    fn required(&self, field: &str) -> Option<&str> {
        self.fields.requirements().find(|(own, is_equal, _)| *is_equal && *own == field).map(|(_, _, value)| value)
    }
}
