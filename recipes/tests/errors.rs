//! Broken recipes: each gives its own error at its own place.

use uprof_recipes::{Error, Scope, Source, parse, parse_expr};

mod mock;

/// Those of the text; without any, the one that comes where nothing is known of the binary.
fn errors(text: &str) -> Vec<Error> {
    match parse(Source::new("t.toml", text)) {
        Err(errors) => errors,
        Ok(recipe) => {
            let bound = recipe.probes.iter().map(|p| p.bind(0, &mock::Nothing));
            bound.filter_map(Result::err).take(1).collect()
        }
    }
}

/// Expressions in the `where` of a `[[call]]` (or `[[probe]]`): expression, column in it, part of the message,
/// part of the help.
fn check_expressions(probe: &str, cases: &[(&str, usize, &str, &str)]) {
    let mut wrong = Vec::new();
    for (expr, column, message, help) in cases {
        let text = format!("[[{probe}]]\nfunction = \"f\"\nwhere = '''{expr}'''\n");
        let found = errors(&text);
        let [e] = found.as_slice() else {
            panic!("{expr}: {} errors: {found:?}", found.len())
        };
        // The parser's own words for its rules are no sentence.
        let plain = !["ternary", "EOI", "log_or", "infix", "primary"]
            .iter()
            .any(|word| e.message.contains(word));
        if !fits(e, 3, 11 + column, message, help) || !plain {
            wrong.push(format!("{expr}\n{}", e.render(false)));
        }
        assert_eq!(
            e.to_string(),
            format!("t.toml:{}:{}: {}", e.line, e.column, e.message)
        );
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

fn fits(e: &Error, line: usize, column: usize, message: &str, help: &str) -> bool {
    e.message.contains(message)
        && (e.line, e.column) == (line, column)
        && e.help.as_deref().unwrap_or("").contains(help)
        && e.render(false).contains(&e.message)
}

#[test]
fn syntax_of_expressions() {
    check_expressions(
        "call",
        &[
            ("arg0 >", 7, "expected an expression after `>`", ""),
            (
                "arg0 > > 3",
                8,
                "expected an expression after `>`, found `>`",
                "",
            ),
            ("&& 1", 1, "expected an expression, found `&&`", ""),
            (
                "arg0 3",
                6,
                "expected an operator or the end after `arg0`, found `3`",
                "",
            ),
            ("arg0 = 3", 6, "`=` does not compare", "`==`"),
            ("pid == 1 and tid == 2", 10, "`and` is no operator", "`&&`"),
            ("pid == 1 or tid == 2", 10, "`or` is no operator", "`||`"),
            ("(arg0 + 1", 1, "this `(` is never closed", ""),
            ("arg0 + 1)", 9, "`)` closes nothing", ""),
            ("(arg0 + 1]", 10, "`]` does not close the `(`", ""),
            ("comm == \"King", 9, "no closing quote", ""),
            ("arg0 == 'ab'", 9, "not one character", "double quotes"),
            ("arg0 == 'a", 9, "no closing quote", ""),
            ("arg0 ? 1", 6, "`?` has no `:`", ""),
            ("", 1, "found nothing", ""),
            ("   ", 1, "found nothing", ""),
            ("()", 2, "expected an expression after `(`, found `)`", ""),
            ("arg0; arg1", 5, "no statements", ""),
            ("arg0 @ 2", 6, "found `@`", ""),
            ("é == 1", 1, "found `é`", ""),
            ("str(arg0,)", 10, "expected an expression after `,`", ""),
            ("arg0 == 10MB", 9, "unknown unit `MB`", "10MiB"),
            ("arg0 == 1.5", 9, "no fractions", ""),
            ("arg0 == 0x", 9, "not a hexadecimal", ""),
            ("arg0 == 089", 9, "not an octal", ""),
            ("arg0 == 18446744073709551616", 9, "too large", ""),
            ("comm == \"\\q\"", 9, "no escape", ""),
            (
                "((struct client*)arg0)->fd == 1",
                3,
                "the debug information has no type `struct client`",
                "app has no debug information",
            ),
            ("$ == 1", 1, "parameter's name", ""),
            ("(u32 arg0)", 6, "`u32` is a type", "(u32)arg0"),
        ],
    );
}

#[test]
fn names_and_types_in_calls() {
    check_expressions(
        "call",
        &[
            (
                "retvall == 0",
                1,
                "unknown name `retvall`",
                "did you mean `retval`?",
            ),
            (
                "latncy > 1ms",
                1,
                "unknown name `latncy`",
                "did you mean `latency`?",
            ),
            ("size > 1", 1, "unknown name `size`", "known: pid"),
            ("arg10 == 0", 1, "arg0 to arg9", ""),
            (
                "strr(arg0) == \"x\"",
                1,
                "unknown function `strr`",
                "did you mean `str`?",
            ),
            ("usym(arg0) == 1", 1, "known to bpftrace", ""),
            (
                "ustack == 1",
                1,
                "`ustack` is a stack, which cannot be compared",
                "a stack can be captured",
            ),
            (
                "strncmp(comm, \"a\", 1) == 0",
                1,
                "known to bpftrace",
                "compares",
            ),
            (
                "str() == \"x\"",
                1,
                "takes 1 or 2 arguments, found 0",
                "NUL",
            ),
            (
                "str(arg0, 1, 2) == \"x\"",
                1,
                "takes 1 or 2 arguments, found 3",
                "",
            ),
            ("buf(arg0) == \"x\"", 1, "takes 2 arguments, found 1", ""),
            (
                "buf(arg0, 4) == \"x\"",
                1,
                "bytes cannot be compared",
                "str(p, n)",
            ),
            (
                "comm == 3",
                1,
                "a text is compared with a number",
                "double quotes",
            ),
            (
                "3 == comm",
                1,
                "a text is compared with a number",
                "double quotes",
            ),
            (
                "arg0 == \"x\"",
                1,
                "a text is compared with a number",
                "str(arg0)",
            ),
            (
                "comm + 1",
                1,
                "`+` takes numbers, and `comm` is a text",
                "==",
            ),
            ("str(arg0) * 2", 1, "`*` takes numbers", ""),
            ("-comm", 2, "`-` takes numbers", ""),
            ("comm && pid", 1, "`&&` takes numbers", ""),
            ("comm", 1, "`where` is a condition", "King"),
            ("\"x\"", 1, "`where` is a condition", ""),
            ("comm < \"x\"", 1, "does not compare texts", "== and !="),
            ("str(arg0) >= \"x\"", 1, "does not compare texts", ""),
            ("comm == str(arg0)", 1, "constant text", ""),
            (
                "*arg0 == 1",
                1,
                "needs a pointer, and `arg0` is a 64-bit integer",
                "*(u32*)arg0",
            ),
            ("arg0[1] == 1", 1, "needs a pointer", "((u32*)arg0)[0]"),
            ("*(void*)arg0 == 1", 1, "void*", "cast"),
            ("(void)arg0 == 1", 2, "type void", ""),
            ("(float)arg0 == 1", 2, "no fractions", ""),
            (
                "chars(arg0) == \"x\"",
                1,
                "`chars` takes 2 arguments, found 1",
                "chars(p, n)",
            ),
            (
                "chars(arg0, arg1) == \"x\"",
                13,
                "a constant from 1 to 65536",
                "str(p, n)",
            ),
            (
                "chars(arg0, 0) == \"x\"",
                13,
                "a constant from 1 to 65536",
                "",
            ),
            (
                "reg(\"xax\") == 1",
                5,
                "there is no register `xax`",
                "rax rdx",
            ),
            (
                "reg(3) == 1",
                5,
                "named by a text in quotes",
                "reg(\"rdi\")",
            ),
            (
                "called_by(arg0) == 1",
                11,
                "named by a text in quotes",
                "called_by(\"main\")",
            ),
            ("reg == 1", 1, "`reg` is a function", "reg(\"rdi\")"),
            ("(unsigned bool)arg0 == 1", 2, "no type", ""),
            ("(u32)comm == 1", 6, "a cast takes numbers", ""),
            (
                "arg0->fd == 1",
                1,
                "`->` needs a record with members, and `arg0` is a 64-bit integer",
                "((struct NAME *)arg0)->fd",
            ),
            ("&arg0 == 1", 1, "`arg0` has no address", "bitwise and"),
            ("arg0 / 0 == 1", 8, "division by zero", ""),
            ("arg0 % (1 - 1) == 1", 8, "division by zero", ""),
            ("arg0 << 64 == 1", 9, "64 bits or more", ""),
            ("(u8)arg0 == 300", 13, "too large for `(u8)arg0`", ""),
            ("pid == -1", 8, "too small for `pid`", ""),
            ("(int)arg0 > 2147483648", 13, "too large", ""),
            ("arg0 < -1", 8, "`arg0` is unsigned", "(int)arg0"),
            (
                "comm == \"a name that is too long\"",
                9,
                "never longer than 15 bytes",
                "a name that is ",
            ),
            (
                "str(arg0) == \"0123456789012345678901234567890123456789012345678901234567890123\"",
                14,
                "at most 63 bytes",
                "",
            ),
            ("str(arg0) == \"a\\0b\"", 14, "NUL", ""),
            ("str(0) == \"x\"", 5, "this is a constant", ""),
            ("str(arg0, -1) == \"x\"", 11, "negative", ""),
            ("str == \"x\"", 1, "`str` is a function", ""),
            (
                "(arg0 ? comm : comm) == \"x\"",
                1,
                "chooses between numbers",
                "str(p, c ? n : 0)",
            ),
            ("(u32*)arg0 * 2 == 1", 1, "on a pointer", ""),
            ("(u32*)arg0 - (u8*)arg1 == 1", 1, "different types", ""),
            ("after(arg0) == 1", 1, "nothing in `after()`", ""),
            (
                "after(after(*(u32*)arg0)) == 1",
                1,
                "inside `after()`",
                "one is enough",
            ),
            ("$min == 1", 1, "unknown parameter `$min`", "declare it"),
        ],
    );
}

#[test]
fn at_the_entry_there_is_no_return() {
    check_expressions(
        "probe",
        &[
            (
                "retval == 0",
                1,
                "known only when the call returns",
                "[[call]]",
            ),
            (
                "arg0 > 1 && latency > 1ms",
                13,
                "known only when the call returns",
                "[[call]]",
            ),
            (
                "after(*(u32*)arg0) == 1",
                1,
                "when the call returns",
                "[[call]]",
            ),
        ],
    );
}

/// Whole recipes: text, line, column, part of the message, part of the help.
#[test]
fn recipes() {
    let cases: &[(&str, usize, usize, &str, &str)] = &[
        ("", 1, 1, "no probe", "[[probe]]"),
        ("x", 1, 2, "", ""),
        ("[recipe\n", 1, 8, "", ""),
        ("a = \n", 1, 5, "", ""),
        (
            "[[probe]]\nfunction = \"f\"\nwhere = \"arg0\n",
            3,
            14,
            "",
            "",
        ),
        (
            "[recipe]\nabout = 3\n[[probe]]\nfunction = \"f\"\n",
            2,
            9,
            "`about` is a text, found an integer",
            "",
        ),
        (
            "[recipe]\nabuot = \"x\"\n[[probe]]\nfunction = \"f\"\n",
            2,
            1,
            "unknown key `abuot` in [recipe]",
            "`about`",
        ),
        (
            "[recipes]\n[[probe]]\nfunction = \"f\"\n",
            1,
            2,
            "unknown key `recipes` in a recipe",
            "`recipe`",
        ),
        (
            "[[probes]]\nfunction = \"f\"\n[[probe]]\nfunction = \"f\"\n",
            1,
            3,
            "unknown key `probes`",
            "`probe`",
        ),
        (
            "[probe]\nfunction = \"f\"\n",
            1,
            1,
            "`probe` is a list of tables",
            "[[probe]]",
        ),
        (
            "[target]\nprogramme = \"x\"\n[[probe]]\nfunction = \"f\"\n",
            2,
            1,
            "unknown key `programme`",
            "`program`",
        ),
        (
            "[target]\nprogram = 3\n[[probe]]\nfunction = \"f\"\n",
            2,
            11,
            "a text or a list of texts",
            "",
        ),
        (
            "[target]\nprogram = [3]\n[[probe]]\nfunction = \"f\"\n",
            2,
            12,
            "`program` is a text",
            "",
        ),
        (
            "[target]\nprogram = []\n[[probe]]\nfunction = \"f\"\n",
            2,
            11,
            "`program` is empty",
            "",
        ),
        (
            "[target]\nbinds = \"malloc\"\nlibrary = \"libc\"\n[[probe]]\nfunction = \"f\"\n",
            3,
            1,
            "beside `binds`",
            "",
        ),
        (
            "[[probe]]\nname = \"x\"\n",
            1,
            1,
            "has no function",
            "function = ",
        ),
        (
            "[[probe]]\nfunction = \"a::b\"\n",
            1,
            1,
            "has no name",
            "name = ",
        ),
        (
            "[[probe]]\nfunction = 3\nname = \"x\"\n",
            2,
            12,
            "`function` is a text or a list",
            "",
        ),
        (
            "[[probe]]\nfunction = \"\"\nname = \"x\"\n",
            2,
            12,
            "`function` is empty",
            "",
        ),
        (
            "[[probe]]\nname = \"\"\nfunction = \"f\"\n",
            2,
            8,
            "1 to 64 characters",
            "",
        ),
        (
            "[[probe]]\nfunction = \"f\"\n[[probe]]\nfunction = \"f\"\n",
            3,
            1,
            "a second probe named `f`",
            "when",
        ),
        (
            "[[probe]]\nfunction = \"f\"\nat = \"g\"\n",
            2,
            1,
            "`function` beside `at`",
            "",
        ),
        (
            "[[probe]]\nname = \"x\"\nat = 3\n",
            3,
            6,
            "`at` is a function's name or a table",
            "",
        ),
        (
            "[[probe]]\nname = \"x\"\nat = []\n",
            3,
            6,
            "`at` is empty",
            "",
        ),
        (
            "[[probe]]\nname = \"x\"\nat = \"f\"\nonly_in = \"libc\"\n",
            4,
            1,
            "`only_in` belongs to a place",
            "",
        ),
        (
            "[[probe]]\nname = \"x\"\n[[probe.at]]\nkernel = \"tcp_close\"\nhas = \"f\"\n",
            5,
            1,
            "`has` is for places in programs",
            "",
        ),
        (
            "[[probe]]\nname = \"x\"\nfunction = \"f\"\nhas = \"g\"\n",
            4,
            1,
            "unknown key `has` in [[probe]]",
            "",
        ),
        (
            "[[probe]]\nname = \"x\"\n[[probe.at]]\ncapture = {}\n",
            3,
            1,
            "this place has no function",
            "",
        ),
        (
            "[[probe]]\nname = \"x\"\n[[probe.at]]\nfunction = \"f\"\nkeep = \"1\"\n",
            5,
            1,
            "unknown key `keep` in [[probe.at]]",
            "",
        ),
        (
            "[[probe]]\nname = \"x\"\n[[probe.at]]\nfunction = \"f\"\nwhere = \"arg0 >\"\n",
            5,
            16,
            "expected an expression after `>`",
            "",
        ),
        (
            "[[probe]]\nname = \"x\"\nat = [{ function = \"f\", capture = { a = \"arg0\" } }, { function = \"g\" }]\n",
            3,
            66,
            "does not capture `a`",
            "same names",
        ),
        (
            "[[probe]]\nname = \"x\"\nat = [{ function = \"f\" }, { function = \"g\", capture = { a = \"arg0\" } }]\n",
            3,
            62,
            "not at the first place",
            "same names",
        ),
        (
            "[[probe]]\nname = \"x\"\nat = [{ function = \"f\", capture = { a = \"arg0\" } }, { function = \"g\", capture = { a = \"str(arg0)\" } }]\n",
            3,
            88,
            "`a` is text here and u64 at the first place",
            "cast",
        ),
        (
            "[[probe]]\nfunction = \"f\"\nwhere = 1.5\n",
            3,
            9,
            "`where` is an expression in quotes",
            "",
        ),
        (
            "[[probe]]\nfunction = \"f\"\nwhere = [1]\n",
            3,
            9,
            "found a list",
            "",
        ),
        (
            "[[probe]]\nfunction = \"f\"\nwhere = \"comm == \\\"King\\\" && arg0 > \"\n",
            3,
            37,
            "expected an expression",
            "",
        ),
        (
            "[[probe]]\nfunction = \"f\"\nwhere = \"\"\"\narg0 > 1 &&\n  size > 2\"\"\"\n",
            5,
            3,
            "unknown name `size`",
            "",
        ),
        (
            "[[probe]]\nfunction = \"f\"\ncapture = { pid = \"arg0\" }\n",
            3,
            13,
            "`pid` is a word of the language",
            "every event",
        ),
        (
            "[[probe]]\nfunction = \"f\"\ncapture = { \"a b\" = \"arg0\" }\n",
            3,
            13,
            "cannot be a capture's name",
            "",
        ),
        (
            "[[probe]]\nfunction = \"f\"\ncapture = \"arg0\"\n",
            3,
            11,
            "`capture` is a table",
            "",
        ),
        (
            "[[probe]]\nfunction = \"f\"\ncapture = { a = \"'x\" }\n",
            3,
            18,
            "no closing quote",
            "",
        ),
        (
            "[[probe]]\nfunction = \"f\"\ncapture = { a = '\"x\"' }\n",
            3,
            18,
            "a constant text is not captured",
            "",
        ),
        (
            "[[probe]]\nfunction = \"f\"\ncount = \"yes\"\n",
            3,
            9,
            "`count` is true or false",
            "",
        ),
        (
            "[[probe]]\nfunction = \"f\"\ncount = true\nhistogram = \"arg0\"\n",
            4,
            1,
            "beside `count`",
            "",
        ),
        (
            "[[probe]]\nfunction = \"f\"\nhistogram = \"comm\"\n",
            3,
            14,
            "`histogram` is a number",
            "",
        ),
        (
            "[[probe]]\nfunction = \"f\"\nhistogram = \"latency\"\n",
            3,
            14,
            "known only when the call returns",
            "[[call]]",
        ),
        (
            "[[probe]]\nfunction = \"f\"\nby = \"pid\"\n",
            3,
            1,
            "`by` without",
            "",
        ),
        (
            "[[probe]]\nfunction = \"f\"\nunit = \"ns\"\n",
            3,
            1,
            "`unit` without",
            "",
        ),
        (
            "[[probe]]\nfunction = \"f\"\ncount = true\nby = [\"pdi\"]\n",
            4,
            8,
            "unknown name `pdi`",
            "`pid`",
        ),
        (
            "[[probe]]\nfunction = \"f\"\ncount = true\nby = [\"buf(arg0, 4)\"]\n",
            4,
            8,
            "a key is a number",
            "",
        ),
        (
            "[[probe]]\nfunction = \"f\"\ncount = true\nkeep = \"1\"\n",
            4,
            1,
            "`keep` beside a count",
            "",
        ),
        (
            "[[probe]]\nfunction = \"f\"\nkeep = \"1\"\n",
            3,
            1,
            "`keep` without `where`",
            "",
        ),
        (
            "[[probe]]\nfunction = \"f\"\ntext_limit = 65537\n",
            3,
            14,
            "goes from 1 to 65536",
            "",
        ),
        (
            "[[probe]]\nfunction = \"f\"\ntext_limit = \"1MiB\"\n",
            3,
            14,
            "1048576",
            "",
        ),
        (
            "[[probe]]\nfunction = \"f\"\ntext_limit = \"arg0\"\n",
            3,
            15,
            "only parameters",
            "",
        ),
        (
            "[[probe]]\nfunction = \"f\"\nwhen = \"pid == 1\"\n",
            3,
            9,
            "only parameters",
            "",
        ),
        (
            "[[probe]]\nfunction = \"f\"\noptional = 1\n",
            3,
            12,
            "true or false",
            "",
        ),
        (
            "[[probe]]\nfunction = \"kprobe:tcp_sendmsg\"\nname = \"x\"\n",
            2,
            12,
            "`kprobe:` is of other tools",
            "write kernel:tcp_sendmsg",
        ),
        (
            "[params]\n\"a-b\" = { type = \"int\" }\n[[probe]]\nfunction = \"f\"\n",
            2,
            1,
            "cannot be a parameter's name",
            "",
        ),
        (
            "[params]\na = 3\n[[probe]]\nfunction = \"f\"\n",
            2,
            5,
            "`a` is a table, found an integer",
            "",
        ),
        (
            "[params]\na = { default = 3 }\n[[probe]]\nfunction = \"f\"\n",
            2,
            5,
            "has no type",
            "duration",
        ),
        (
            "[params]\na = { type = \"time\" }\n[[probe]]\nfunction = \"f\"\n",
            2,
            14,
            "unknown type `time`",
            "known: ",
        ),
        (
            "[params]\na = { type = \"strnig\" }\n[[probe]]\nfunction = \"f\"\n",
            2,
            14,
            "unknown type",
            "`string`",
        ),
        (
            "[params]\na = { type = \"int\", defualt = 3 }\n[[probe]]\nfunction = \"f\"\n",
            2,
            21,
            "unknown key `defualt`",
            "`default`",
        ),
        (
            "[params]\na = { type = \"duration\", default = 3 }\n[[probe]]\nfunction = \"f\"\n",
            2,
            36,
            "a value of type duration",
            "",
        ),
        (
            "[params]\na = { type = \"duration\", default = \"3x\" }\n[[probe]]\nfunction = \"f\"\n",
            2,
            36,
            "not a duration",
            "10ms",
        ),
        (
            "[params]\na = { type = \"size\", default = \"1kb\" }\n[[probe]]\nfunction = \"f\"\n",
            2,
            32,
            "not a size",
            "KiB",
        ),
        (
            "[params]\na = { type = \"bool\", default = \"maybe\" }\n[[probe]]\nfunction = \"f\"\n",
            2,
            32,
            "not true or false",
            "",
        ),
        (
            "[params]\nmin = { type = \"int\", default = 3 }\n[[probe]]\nfunction = \"f\"\nwhere = \"arg0 > $mni\"\n",
            5,
            17,
            "unknown parameter `$mni`",
            "`$min`",
        ),
        (
            "[params]\nmin = { type = \"int\", default = 3 }\n[[probe]]\nfunction = \"f\"\nwhere = \"arg0 > min\"\n",
            5,
            17,
            "unknown name `min`",
            "`$min`",
        ),
        (
            "[report]\ncolumns = \"time\"\n[[probe]]\nfunction = \"f\"\n",
            2,
            11,
            "`columns` is a list",
            "",
        ),
        (
            "[report]\ncolumns = [\"tmie\"]\n[[probe]]\nfunction = \"f\"\n",
            2,
            12,
            "no probe captures `tmie`",
            "`time`",
        ),
        (
            "[report]\ncolumns = [{ title = \"x\" }]\n[[probe]]\nfunction = \"f\"\n",
            2,
            12,
            "this column has no value",
            "",
        ),
        (
            "[report]\ncolumns = [{ value = \"time\", align = \"middle\" }]\n[[probe]]\nfunction = \"f\"\n",
            2,
            38,
            "unknown align",
            "left, right",
        ),
        (
            "[report]\ngroup_by = \"x\"\n[[probe]]\nfunction = \"f\"\n",
            2,
            12,
            "no probe captures `x`",
            "",
        ),
        (
            "[report.top]\nlimit = 3\n[[probe]]\nfunction = \"f\"\n",
            1,
            1,
            "lacks `by`",
            "",
        ),
        (
            "[report.names.x]\n1 = \"a\"\n[[probe]]\nfunction = \"f\"\n",
            1,
            15,
            "no probe captures `x`",
            "",
        ),
        (
            "[report.names.x]\none = \"a\"\n[[probe]]\nfunction = \"f\"\ncapture = { x = \"arg0\" }\n",
            2,
            1,
            "`one` is not a value",
            "",
        ),
        (
            "[join.statements]\ncall = \"f\"\n[[probe]]\nfunction = \"f\"\n",
            1,
            1,
            "lacks `command`",
            "",
        ),
        (
            "[[call]]\nusdt = \"app:request\"\n",
            2,
            8,
            "`usdt` in [[call]]: it has no return of its own",
            "[[probe]]",
        ),
        (
            "[[call]]\nname = \"x\"\n[[call.at]]\nline = \"app.c:12\"\n",
            4,
            8,
            "`line` in [[call]]: it has no return of its own",
            "[[probe]]",
        ),
        (
            "[[probe]]\nusdt = \"request\"\n",
            2,
            8,
            "`request` is no USDT probe",
            "provider:name",
        ),
        (
            "[[probe]]\nusdt = \"usdt:app:request\"\n",
            2,
            8,
            "`usdt:app:request` is no USDT probe",
            "provider:name",
        ),
        (
            "[[probe]]\nname = \"x\"\nfunction = \"usdt:app:request\"\n",
            3,
            12,
            "`usdt:app:request` is no function's name",
            "usdt = \"provider:name\"",
        ),
        (
            "[[probe]]\nline = \"app.c\"\n",
            2,
            8,
            "`app.c` is no line of a file",
            "file.c:123",
        ),
        (
            "[[probe]]\nline = [\"app.c:3\", \"app.c:0\"]\nname = \"x\"\n",
            2,
            20,
            "`app.c:0` is no line of a file",
            "file.c:123",
        ),
        (
            "[[probe]]\nfunction = \"f\"\nusdt = \"app:request\"\n",
            3,
            1,
            "`usdt` beside `function`",
            "one of them",
        ),
        (
            "[[probe]]\nusdt = \"app:request\"\nat = \"f\"\n",
            2,
            1,
            "`usdt` beside `at`",
            "[[.at]]",
        ),
        (
            "[[probe]]\nfunction = \"f\"\ncapture = { chars = \"arg0\" }\n",
            3,
            13,
            "`chars` is a word of the language",
            "",
        ),
        (
            "[join.tables]\n[[probe]]\nfunction = \"f\"\n",
            1,
            7,
            "unknown key `tables` in [join]",
            "statements",
        ),
    ];
    let mut wrong = Vec::new();
    for (text, line, column, message, help) in cases {
        let found = errors(text);
        let e = found
            .first()
            .unwrap_or_else(|| panic!("no error in\n{text}"));
        if !fits(e, *line, *column, message, help) {
            wrong.push(format!(
                "expected {line}:{column} {message:?} {help:?} in\n{text}\n{}",
                e.render(false)
            ));
        }
        assert!(e.render(true).contains('\u{1b}'), "colour was asked for");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn several_errors_come_at_once_in_the_order_of_the_text() {
    let found = errors(
        "[recipe]\nabuot = \"x\"\n[[probe]]\nfunction = \"f\"\nwhere = \"arg0 >\"\ncount = 3\n[[call]]\nfunction = \"g\"\nwhree = \"1\"\n",
    );
    let lines: Vec<usize> = found.iter().map(|e| e.line).collect();
    assert_eq!(lines, [2, 5, 6, 9]);
}

#[test]
fn the_snippet_shows_the_line_and_the_help() {
    let found = errors("[[probe]]\nfunction = \"f\"\nwhere = \"retval == 0\"\n");
    let shown = found[0].render(false);
    for part in [
        "error: `retval` is known only",
        "t.toml:3:10",
        "where = \"retval == 0\"",
        "^^^^^^",
        "help: use [[call]]",
    ] {
        assert!(shown.contains(part), "{part} is not in\n{shown}");
    }
}

#[test]
fn a_recipe_cannot_write_to_the_terminal() {
    let found = errors("[[probe]]\nfunction = \"f\"\nwhere = \"x\u{7f}y == 1\"\n");
    let text = format!("{}{}", found[0], found[0].render(false));
    assert!(
        text.chars().all(|c| c == '\n' || !c.is_control()),
        "{text:?}"
    );
}

#[test]
fn hostile_expressions_end_in_an_error() {
    let nested = "(".repeat(10_000) + "1" + &")".repeat(10_000);
    let shorter = "(".repeat(4_000) + "1" + &")".repeat(4_000);
    let chain = vec!["1"; 4_000].join("+");
    let choice = "1?".repeat(2_000) + "1" + &":1".repeat(2_000);
    for (text, message) in [
        (nested, "longer than 8192"),
        (shorter, "nested too deep"),
        ("-".repeat(8_000) + "1", "nested too deep"),
        ("(u8)".repeat(2_000) + "arg0", "nested too deep"),
        (chain, "nested too deep"),
        (choice, "nested too deep"),
        (
            "((u64*)arg0)".to_owned() + &"[0]".repeat(2_000),
            "nested too deep",
        ),
        ("str(".repeat(1_500) + &")".repeat(1_500), "nested too deep"),
    ] {
        let e = parse_expr(&Source::new("--where", &text), &Scope::call()).expect_err("refused");
        assert!(
            e.message.contains(message),
            "{}: {}",
            &text[..20],
            e.message
        );
    }
}

#[test]
fn parameters_are_checked_when_set() {
    let text = "[params]\nn = { type = \"int\", help = \"how many\" }\nd = { type = \"duration\", default = \"1s\" }\n[[call]]\nfunction = \"f\"\nwhere = \"latency / $n > $d\"\n";
    let recipe =
        parse(Source::new("t.toml", text)).expect("a parameter may lack a value until it is used");
    let set = |values: &[(&str, &str)]| {
        let values: Vec<_> = values
            .iter()
            .map(|(n, v)| (n.to_string(), v.to_string()))
            .collect();
        recipe.with_params(&values).map_err(|errors| {
            errors
                .iter()
                .map(Error::to_string)
                .collect::<Vec<_>>()
                .join("\n")
        })
    };
    let e = set(&[]).expect_err("no value");
    assert!(e.contains("parameter `n` has no default"), "{e}");
    let e = set(&[("n", "many"), ("x", "1")]).expect_err("no integer, no such parameter");
    assert!(
        e.contains("`many` is not an integer") && e.contains("no parameter `x`"),
        "{e}"
    );
    let e = set(&[("n", "0")]).expect_err("a division by zero");
    assert!(e.contains("t.toml:6:20: division by zero"), "{e}");
    let done = set(&[("n", "2"), ("d", "10ms")]).expect("values fit");
    assert_eq!(
        done.probes[0]
            .where_
            .as_ref()
            .expect("a filter")
            .to_string(),
        "latency / 2 > 10000000"
    );
}

#[test]
fn what_is_wrong_in_an_included_text_is_told_by_its_own_name_and_line() {
    let text =
        "[recipe]\ninclude = [\"tcp-sockets\"]\n[[probe]]\nname = \"close\"\nsyscall = \"close\"\n";
    let errors = parse(Source::new("mine", text)).expect_err("it has no parameter `timeline`");
    let told: Vec<String> = errors.iter().map(|e| e.to_string()).collect();
    assert!(
        told.iter()
            .all(|e| e.starts_with("builtin:tcp-sockets:") && e.contains("timeline")),
        "{told:?}"
    );
    let shown = errors[0].render(false);
    assert!(shown.contains("$timeline || oldstate == 1"), "{shown}");
    // Its own errors stay its own.
    let text = format!(
        "{text}where = \"1 +\"\n[params]\ntimeline = {{ type = \"bool\", default = \"false\" }}\n"
    );
    let errors = parse(Source::new("mine", text)).err().unwrap_or_default();
    let told: Vec<String> = errors.iter().map(|e| e.to_string()).collect();
    assert!(
        told.len() == 1 && told[0].starts_with("mine:6:"),
        "{told:?}"
    );
}
