//! What functions do. Which there are, and for which types, `declarations` says.

mod convert;
mod formats;
mod lists;
pub mod net;
mod operators;
mod quantities;
mod strings;
pub mod time;
pub mod url;
pub mod versions;

pub use convert::text_of;

use crate::{Budget, Fault, Value, eval::no_overload};

/// Calls a function; the target of a member function is its first argument.
pub fn call(name: &str, mut args: Vec<Value>, budget: &mut Budget) -> Result<Value, Fault> {
    // A field of an optional value is optional again.
    if let ("_[_]" | "_[?_]", Some(Value::Optional(of))) = (name, args.first_mut()) {
        let Some(value) = of.take() else { return Ok(Value::Optional(None)) };
        args[0] = *value;
        return operators::call("_[?_]", &args, budget).unwrap_or_else(|| Err(no_overload()));
    }
    if let Some((Value::Host(host), rest)) = args.split_first() {
        budget.spend(host.cost(name))?;
        return host.call(name, rest).unwrap_or_else(|| Err(no_overload()));
    }
    let known = [operators::call, strings::call, lists::call, convert::call, time::call, quantities::call, net::call];
    let rest = [url::call, formats::call, versions::call];
    let found = known.into_iter().chain(rest).find_map(|call| call(name, &args, budget));
    found.unwrap_or_else(|| Err(no_overload()))
}

/// What a function gives that may not be among those of a file.
type Called = Option<Result<Value, Fault>>;
