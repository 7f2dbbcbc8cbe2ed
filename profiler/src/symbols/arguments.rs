//! Parameters, variables and fields with their types, as far as debug information tells.

use std::io;

use anyhow::{Result, bail};
use serde_json::json;
use uprof_symbols::Image;
use uprof_symbols::image::Function;
use uprof_symbols::site::Site;
use uprof_symbols::types::{Place, Scope, Shape, TypeId, TypeModel, Variable, VariableKind};

use super::Out;
use crate::cli::Format;

/// The variables that an expression may name where a probe on FUNCTION would sit.
pub fn of_function(
    image: &Image,
    function: &Function,
    site: Option<&Site>,
    out: &mut Out,
) -> Result<()> {
    let Some(types) = image.types()? else {
        let why = "no debug information: arg0, arg1 ... are the arguments by position";
        match out.json() {
            true => out.object(
                &json!({"type": "variables", "function": function.name(), "missing": why}),
            )?,
            false => out.line(format_args!("    {why}"))?,
        }
        return Ok(());
    };
    // Passing over a few instructions changes none of the arguments.
    let at = site.map_or(function.address, |site| {
        if site.address - site.moved == function.address {
            function.address
        } else {
            site.address
        }
    });
    let shown = match types.variables(function, at, Scope::Function) {
        Ok(mut variables) => {
            if at == function.address {
                // Nothing has been put into local variables yet.
                variables.retain(|v| v.kind != VariableKind::Local);
                variables.extend(types.returned(function).unwrap_or_default());
            }
            variables
        }
        Err(why) => {
            out.line(format_args!("    {why}"))?;
            return Ok(());
        }
    };
    if out.json() {
        let list: Vec<_> = shown.iter().map(|v| json_of(&types, v)).collect();
        return Ok(out.object(
            &json!({"type": "variables", "function": function.name(), "variables": list}),
        )?);
    }
    for v in &shown {
        write_variable(&types, v, out)?;
    }
    if shown.is_empty() {
        out.line(format_args!("    no parameters"))?;
    }
    Ok(())
}

fn json_of(types: &dyn TypeModel, v: &Variable) -> serde_json::Value {
    let kind = match v.kind {
        VariableKind::Parameter { .. } => "parameter",
        VariableKind::Local => "local",
        VariableKind::Global => "global",
        VariableKind::Return => "return",
    };
    let mut value = json!({"name": v.name, "kind": kind, "type": types.type_name(v.ty), "bytes": types.size(v.ty)});
    if let VariableKind::Parameter { index } = v.kind {
        value["index"] = index.into();
    }
    if let Place::Unavailable(why) = &v.place {
        value["unavailable"] = why.as_str().into();
    }
    value
}

fn write_variable(types: &dyn TypeModel, v: &Variable, out: &mut Out) -> io::Result<()> {
    let what = match v.kind {
        VariableKind::Parameter { .. } if v.name.is_empty() => "(no name)".to_owned(),
        VariableKind::Return => "returns".to_owned(),
        _ => v.name.clone(),
    };
    let note = match (&v.place, v.kind) {
        (Place::Unavailable(why), _) => format!("  ({why})"),
        (_, VariableKind::Local) => "  (local)".to_owned(),
        _ => String::new(),
    };
    out.line(format_args!(
        "    {what:20} {}{note}",
        types.type_name(v.ty)
    ))
}

/// `--type`: the fields of a type of IMAGE.
pub fn list_type(image: &Image, name: &str, format: Format) -> Result<()> {
    let Some(types) = image.types()? else {
        bail!(
            "{} has no debug information, which tells of types\nInstall its debug package, or name where its debug file lies \
             with --debug-dir",
            image.path().display()
        );
    };
    let mut out = Out::new(format);
    write_type(&types, name, &image.path().display().to_string(), &mut out)?;
    Ok(out.flush()?)
}

/// The fields of the type NAME of a source of types.
pub fn write_type(types: &dyn TypeModel, name: &str, source: &str, out: &mut Out) -> Result<()> {
    let Some(ty) = types.named(name)? else {
        bail!(
            "no type {name} in {source}\nWrite it as its language does: 'struct client', 'enum state', client_t, ns::Class"
        );
    };
    let size = types.size(ty);
    let members = types.members(ty);
    if out.json() {
        let fields: Vec<_> = members
            .iter()
            .map(|m| {
                json!({"name": m.name, "type": types.type_name(m.ty), "offset": m.offset, "bytes": types.size(m.ty),
                    "bits": m.bits.map(|b| b.bits)})
            })
            .collect();
        let value = json!({"type": "type", "name": types.type_name(ty), "bytes": size, "fields": fields,
            "values": values(types, ty)});
        return Ok(out.object(&value)?);
    }
    let bytes = size.map_or_else(String::new, |n| format!("  {n} bytes"));
    out.line(format_args!("{}{bytes}", types.type_name(ty)))?;
    for m in &members {
        let bits = m
            .bits
            .map_or_else(String::new, |b| format!("  {} bits", b.bits));
        out.line(format_args!(
            "    {:>+6}  {:24} {}{bits}",
            m.offset,
            m.name,
            types.type_name(m.ty)
        ))?;
    }
    for (name, value) in values(types, ty) {
        out.line(format_args!("    {value:>6}  {name}"))?;
    }
    Ok(())
}

/// The values of an enumeration.
fn values(types: &dyn TypeModel, ty: TypeId) -> Vec<(String, i64)> {
    match types.shape(ty) {
        Shape::Enum { values, .. } => values
            .into_iter()
            .map(|(name, value)| (name, value as i64))
            .collect(),
        _ => Vec::new(),
    }
}
