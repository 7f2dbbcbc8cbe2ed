//! Kernel functions and tracepoints, with the fields that may be captured.

use anyhow::{Result, bail};
use serde_json::json;
use uprof_symbols::kernel::{self, FieldKind, FieldPlace, KernelFunction, KernelTypes, Tracepoint};
use uprof_symbols::types::TypeModel;

use super::{Out, arguments};
use crate::cli::SymbolsArgs;

/// A place in the kernel, as the user writes it.
pub enum Place {
    /// `kernel:FUNCTION`; a glob may be given.
    Function(String),
    /// `tracepoint:GROUP:NAME`; both may be globs.
    Tracepoint(String, String),
}

impl Place {
    /// `None`: the text names no place in the kernel.
    pub fn parse(text: &str) -> Result<Option<Self>> {
        if let Some(name) = text.strip_prefix("kernel:") {
            if name.is_empty() {
                bail!("{text}: write kernel:FUNCTION, as in kernel:tcp_sendmsg or 'kernel:tcp_*'");
            }
            return Ok(Some(Self::Function(name.to_owned())));
        }
        let Some(rest) = text
            .strip_prefix("tracepoint:")
            .or_else(|| text.strip_prefix("t:"))
        else {
            return Ok(None);
        };
        match rest.split_once(':') {
            Some((group, name)) if !group.is_empty() && !name.is_empty() => {
                Ok(Some(Self::Tracepoint(group.to_owned(), name.to_owned())))
            }
            _ => bail!(
                "{text}: write tracepoint:GROUP:NAME, as in tracepoint:syscalls:sys_enter_execve or 'tracepoint:tcp:*'"
            ),
        }
    }
}

/// Lists what PLACE names; with `--args` the fields of each, with `--type` a type of the kernel.
pub fn list(place: &Place, args: &SymbolsArgs) -> Result<()> {
    if args.usdt || args.sources || args.pattern.is_some() {
        bail!(
            "{}: --usdt, --sources and a PATTERN are for files and processes; kernel places are written \
             kernel:GLOB and tracepoint:GROUP:GLOB",
            args.target
        );
    }
    let mut out = Out::new(args.format);
    match place {
        Place::Function(_) if args.type_.is_some() => {
            let name = args.type_.as_deref().unwrap_or_default();
            arguments::write_type(kernel::types()?, name, "the kernel", &mut out)?;
        }
        Place::Function(glob) => functions(kernel::types()?, glob, args.args, &mut out)?,
        Place::Tracepoint(group, name) => tracepoints(group, name, args.args, &mut out)?,
    }
    Ok(out.flush()?)
}

fn is_glob(text: &str) -> bool {
    text.contains(['*', '?', '['])
}

fn functions(types: &KernelTypes, glob: &str, detailed: bool, out: &mut Out) -> Result<()> {
    if !is_glob(glob) {
        return function(types, &types.function(glob)?, true, out);
    }
    let names = types.functions(glob)?;
    if names.is_empty() {
        bail!("no kernel function matches {glob}");
    }
    for name in names {
        function(types, &types.function(&name)?, detailed, out)?;
    }
    Ok(())
}

fn function(types: &KernelTypes, f: &KernelFunction, detailed: bool, out: &mut Out) -> Result<()> {
    let returns = f
        .returns
        .map_or_else(|| "void".to_owned(), |ty| types.type_name(ty));
    if out.json() {
        let parameters: Vec<_> = f
            .parameters
            .iter()
            .map(|p| json!({"name": p.name, "type": types.type_name(p.ty)}))
            .collect();
        return Ok(out.object(
            &json!({"type": "kernel-function", "name": f.name, "module": f.module,
                "parameters": parameters, "returns": returns, "variadic": f.variadic}),
        )?);
    }
    let module = f
        .module
        .as_ref()
        .map_or_else(String::new, |m| format!("  [{m}]"));
    if !detailed {
        return Ok(out.line(format_args!("{}{module}", f.name))?);
    }
    out.line(format_args!("kernel:{}{module}", f.name))?;
    for (index, p) in f.parameters.iter().enumerate() {
        let name = if p.name.is_empty() {
            "(no name)"
        } else {
            &p.name
        };
        out.line(format_args!(
            "    arg{index}  {name:20} {}",
            types.type_name(p.ty)
        ))?;
    }
    if f.variadic {
        out.line(format_args!("    ...   and more (variadic)"))?;
    }
    out.line(format_args!("    returns {returns}"))?;
    Ok(())
}

fn tracepoints(group: &str, name: &str, detailed: bool, out: &mut Out) -> Result<()> {
    if !is_glob(group) && !is_glob(name) {
        return tracepoint(&kernel::tracepoint(group, name)?, true, out);
    }
    let found = kernel::tracepoints(group, name)?;
    if found.is_empty() {
        bail!("no tracepoint matches {group}:{name}; `uprof symbols 'tracepoint:*:*'` lists all");
    }
    for (group, name) in found {
        if detailed || out.json() {
            tracepoint(&kernel::tracepoint(&group, &name)?, detailed, out)?;
        } else {
            out.line(format_args!("tracepoint:{group}:{name}"))?;
        }
    }
    Ok(())
}

fn tracepoint(t: &Tracepoint, detailed: bool, out: &mut Out) -> Result<()> {
    if out.json() {
        let fields: Vec<_> = t
            .own_fields()
            .map(|f| {
                json!({"name": f.name, "type": f.type_text, "offset": f.offset, "size": f.size, "signed": f.signed,
                    "text": is_text(&f.kind)})
            })
            .collect();
        return Ok(
            out.object(&json!({"type": "tracepoint", "group": t.group, "name": t.name, "id": t.id, "fields": fields}))?,
        );
    }
    out.line(format_args!("tracepoint:{}:{}", t.group, t.name))?;
    for f in t.own_fields().filter(|_| detailed) {
        let how = match (&f.kind, f.place) {
            (kind, FieldPlace::DataLoc | FieldPlace::RelLoc) if is_text(kind) => "text",
            (_, FieldPlace::DataLoc | FieldPlace::RelLoc) => "of any length",
            (FieldKind::Pointer { text: true }, _) => "address of text",
            (FieldKind::Pointer { .. }, _) => "address",
            (FieldKind::Text, _) => "text",
            (FieldKind::Bytes, _) => "bytes",
            _ => "",
        };
        out.line(format_args!(
            "    {:24} {:28} {} {}  {how}",
            f.name,
            f.type_text,
            f.size,
            if f.size == 1 { "byte" } else { "bytes" },
        ))?;
    }
    Ok(())
}

fn is_text(kind: &FieldKind) -> bool {
    matches!(kind, FieldKind::Text | FieldKind::Pointer { text: true })
}
