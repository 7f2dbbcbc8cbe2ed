//! A statement with its literals folded, so that the same statement with other values is the same text.
//!
//! `select * from t where id in (1,2,3) -- x` and `SELECT *  FROM t WHERE id IN (7)` both become
//! `SELECT * FROM t WHERE id IN (?+)`. The tokens are sqlparser's, in MySQL's dialect; there is no parsing, so text
//! of any kind, cut anywhere, has a digest.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use sqlparser::dialect::MySqlDialect;
use sqlparser::tokenizer::{Token, Tokenizer};

/// Longer digests are shown up to here; two of them are still told apart by their whole text.
const MOST_SHOWN: usize = 2048;

/// What two statements that differ only in their literals have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digest {
    /// Identifies the digest: a hash of its whole text.
    pub id: u64,
    /// The text, ending in `…` where the statement was cut, could not be read on, or is very long.
    pub text: Arc<str>,
}

/// The digest of a statement; `cut` says that it is only the beginning of one. Never fails.
pub fn digest(statement: &[u8], cut: bool) -> Digest {
    let statement = String::from_utf8_lossy(statement);
    let mut tokens = Vec::new();
    let whole = Tokenizer::new(&MySqlDialect {}, &statement)
        .with_unescape(false)
        .tokenize_with_location_into_buf(&mut tokens)
        .is_ok();
    let open_ended = cut || !whole;
    if cut && whole && matches!(tokens.last().map(|t| &t.token), Some(Token::Word(_))) {
        // Half a name would make a digest of its own.
        tokens.pop();
    }
    let mut folded = Folded::default();
    for token in tokens {
        folded.push(token.token);
    }
    folded.close(open_ended);
    let mut text = folded.text();
    if open_ended {
        text.push('…');
    }
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    if text.len() > MOST_SHOWN {
        text.truncate(text.floor_char_boundary(MOST_SHOWN));
        text.push('…');
    }
    Digest {
        id: hasher.finish(),
        text: text.into(),
    }
}

/// What is left of a token.
#[derive(Clone, Debug, PartialEq)]
enum Piece {
    /// A literal or a placeholder.
    Value,
    /// A list of literals, with its parentheses.
    List,
    Null,
    Open,
    Close,
    Comma,
    /// Written without blanks around it.
    Dot,
    /// `@` and `@@`: no blank after it.
    At,
    Keyword(String),
    Name(String),
    Operator(String),
    SemiColon,
}

#[derive(Default)]
struct Folded {
    pieces: Vec<Piece>,
    /// Where the parentheses now open began.
    open: Vec<usize>,
}

impl Folded {
    fn push(&mut self, token: Token) {
        let piece = match token {
            Token::Whitespace(_) | Token::EOF => return,
            Token::Word(word) if word.quote_style.is_none() => {
                let upper = word.value.to_ascii_uppercase();
                match KEYWORDS.binary_search(&upper.as_str()) {
                    _ if upper == "NULL" => Piece::Null,
                    Ok(_) => Piece::Keyword(upper),
                    Err(_) => Piece::Name(word.value),
                }
            }
            // A double-quoted word is a string in MySQL, unless ANSI_QUOTES is set.
            Token::Word(word) if word.quote_style == Some('"') => Piece::Value,
            Token::Word(word) => Piece::Name(format!("`{}`", word.value)),
            Token::LParen => {
                self.open.push(self.pieces.len());
                Piece::Open
            }
            Token::RParen => return self.fold_group(),
            Token::Comma => {
                self.fold_null();
                Piece::Comma
            }
            Token::Period => Piece::Dot,
            Token::SemiColon => Piece::SemiColon,
            Token::AtSign | Token::AtAt => Piece::At,
            literal if is_literal(&literal) => Piece::Value,
            other => Piece::Operator(other.to_string()),
        };
        if piece == Piece::Value {
            self.fold_sign();
            // Adjacent strings are one string.
            if self.pieces.last() == Some(&Piece::Value) {
                return;
            }
        }
        self.pieces.push(piece);
    }

    /// Drops the sign of a literal: in `a = -5` it belongs to the number, in `a - 5` it does not.
    fn fold_sign(&mut self) {
        if let [before @ .., Piece::Operator(sign)] = self.pieces.as_slice()
            && (sign == "-" || sign == "+")
            && !matches!(
                before.last(),
                Some(Piece::Name(_) | Piece::Value | Piece::List | Piece::Close | Piece::Null)
            )
        {
            self.pieces.pop();
        }
    }

    /// An element of a list that is NULL is a value like any other; in `IS NULL` it is not.
    fn fold_null(&mut self) {
        if !self.open.is_empty()
            && let [.., Piece::Open | Piece::Comma, last @ Piece::Null] = self.pieces.as_mut_slice()
        {
            *last = Piece::Value;
        }
    }

    /// Ends a group in parentheses, and folds it if it holds only literals or repeats the one before it.
    fn fold_group(&mut self) {
        self.fold_null();
        let Some(start) = self.open.pop() else {
            self.pieces.push(Piece::Close);
            return;
        };
        let values = literals(&self.pieces[start + 1..]);
        let after_in = start > 0 && self.pieces[start - 1] == Piece::Keyword("IN".into());
        if values > 1 || (values == 1 && after_in) {
            self.pieces.truncate(start);
            self.pieces.push(Piece::List);
        } else {
            self.pieces.push(Piece::Close);
        }
        // `(…), (…)`: the rows of VALUES, however many, are one.
        let (before, group) = self.pieces.split_at(start);
        if let [rows @ .., Piece::Comma] = before
            && rows.ends_with(group)
        {
            self.pieces.truncate(start - 1);
        }
    }

    /// Ends the statement; an open-ended one may have groups begun and not ended.
    fn close(&mut self, open_ended: bool) {
        while self.pieces.last() == Some(&Piece::SemiColon) {
            self.pieces.pop();
        }
        if !open_ended {
            return;
        }
        // A half row or element behind whole ones says nothing new.
        while let Some(start) = self.open.pop() {
            if let [.., Piece::Close | Piece::List, Piece::Comma] = &self.pieces[..start] {
                self.pieces.truncate(start);
            } else if literals(self.pieces.get(start + 1..).unwrap_or_default()) > 0 {
                self.pieces.truncate(start + 1);
                self.pieces.push(Piece::Operator("?+".into()));
            }
        }
        while self.pieces.last() == Some(&Piece::Comma) {
            self.pieces.pop();
        }
    }

    fn text(&self) -> String {
        let mut out = String::new();
        let mut before: Option<&Piece> = None;
        for piece in &self.pieces {
            let tight = matches!(
                (before, piece),
                (None | Some(Piece::Open | Piece::Dot | Piece::At), _)
                    | (
                        _,
                        Piece::Close | Piece::Comma | Piece::Dot | Piece::SemiColon
                    )
                    | (Some(Piece::Name(_)), Piece::Open | Piece::List)
            );
            if !tight {
                out.push(' ');
            }
            out.push_str(match piece {
                Piece::Value => "?",
                Piece::List => "(?+)",
                Piece::Null => "NULL",
                Piece::Open => "(",
                Piece::Close => ")",
                Piece::Comma => ",",
                Piece::Dot => ".",
                Piece::At => "@",
                Piece::SemiColon => ";",
                Piece::Keyword(text) | Piece::Name(text) | Piece::Operator(text) => text,
            });
            before = Some(piece);
        }
        out
    }
}

/// How many literals these are, if they are literals and commas only; else 0.
fn literals(pieces: &[Piece]) -> usize {
    // From the end: a group in a group shows there at once, so deep nesting takes no quadratic time.
    let all = pieces
        .iter()
        .rev()
        .all(|p| matches!(p, Piece::Value | Piece::Comma));
    if all {
        pieces.iter().filter(|p| **p == Piece::Value).count()
    } else {
        0
    }
}

fn is_literal(token: &Token) -> bool {
    matches!(
        token,
        Token::Number(..)
            | Token::Placeholder(_)
            | Token::Question
            | Token::Char(_)
            | Token::SingleQuotedString(_)
            | Token::DoubleQuotedString(_)
            | Token::TripleSingleQuotedString(_)
            | Token::TripleDoubleQuotedString(_)
            | Token::DollarQuotedString(_)
            | Token::SingleQuotedByteStringLiteral(_)
            | Token::DoubleQuotedByteStringLiteral(_)
            | Token::SingleQuotedRawStringLiteral(_)
            | Token::DoubleQuotedRawStringLiteral(_)
            | Token::NationalStringLiteral(_)
            | Token::EscapedStringLiteral(_)
            | Token::UnicodeStringLiteral(_)
            | Token::HexStringLiteral(_)
    )
}

/// Words that are written in capitals, sorted. sqlparser's own list has hundreds that are ordinary
/// column names too (`name`, `id`, `status`): those stay as the application wrote them.
const KEYWORDS: &[&str] = &[
    "ALL",
    "ALTER",
    "ANALYZE",
    "AND",
    "AS",
    "ASC",
    "BEGIN",
    "BETWEEN",
    "BY",
    "CALL",
    "CASE",
    "COMMIT",
    "CREATE",
    "CROSS",
    "DATABASE",
    "DELETE",
    "DESC",
    "DESCRIBE",
    "DISTINCT",
    "DIV",
    "DROP",
    "DUPLICATE",
    "ELSE",
    "END",
    "EXCEPT",
    "EXECUTE",
    "EXISTS",
    "EXPLAIN",
    "FALSE",
    "FOR",
    "FORCE",
    "FROM",
    "GROUP",
    "HAVING",
    "IF",
    "IGNORE",
    "IN",
    "INDEX",
    "INNER",
    "INSERT",
    "INTERSECT",
    "INTERVAL",
    "INTO",
    "IS",
    "JOIN",
    "KEY",
    "LEFT",
    "LIKE",
    "LIMIT",
    "LOAD",
    "LOCK",
    "MOD",
    "NATURAL",
    "NOT",
    "NULL",
    "OFFSET",
    "ON",
    "OR",
    "ORDER",
    "OUTER",
    "OVER",
    "PARTITION",
    "PREPARE",
    "PRIMARY",
    "REGEXP",
    "RENAME",
    "REPLACE",
    "RETURNING",
    "RIGHT",
    "RLIKE",
    "ROLLBACK",
    "SELECT",
    "SET",
    "SHOW",
    "START",
    "STRAIGHT_JOIN",
    "TABLE",
    "TABLES",
    "THEN",
    "TO",
    "TRANSACTION",
    "TRUE",
    "TRUNCATE",
    "UNION",
    "UNIQUE",
    "UNLOCK",
    "UPDATE",
    "USE",
    "USING",
    "VALUES",
    "WHEN",
    "WHERE",
    "WITH",
    "XOR",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn text(statement: &str) -> String {
        digest(statement.as_bytes(), false).text.to_string()
    }

    fn cut(statement: &str) -> String {
        digest(statement.as_bytes(), true).text.to_string()
    }

    #[test]
    fn the_keyword_list_can_be_searched() {
        assert!(KEYWORDS.is_sorted());
    }

    #[test]
    fn literals_are_folded() {
        for (statement, expected) in [
            (
                "select c from sbtest1 where id=4711",
                "SELECT c FROM sbtest1 WHERE id = ?",
            ),
            (
                "SELECT 'it\\'s', \"x\", 'a''b', N'n', x'ff', 0xFF, b'01', 1.5, 1e5, -3",
                "SELECT ?, ?, ?, ?, ?, ?, ?, ?, ?, ?",
            ),
            (
                "select * from t where a = -5 and b - 5 > +1",
                "SELECT * FROM t WHERE a = ? AND b - ? > ?",
            ),
            (
                "select * from t where id in (1,2 , 3)",
                "SELECT * FROM t WHERE id IN (?+)",
            ),
            (
                "SELECT * FROM t WHERE id IN ( 'a' )",
                "SELECT * FROM t WHERE id IN (?+)",
            ),
            (
                "select * from t where id in (1, NULL, 'x')",
                "SELECT * FROM t WHERE id IN (?+)",
            ),
            (
                "select * from t where (a, b) in ((1,2),(3,4))",
                "SELECT * FROM t WHERE (a, b) IN ((?+))",
            ),
            (
                "select * from t where a is not null or b is NULL",
                "SELECT * FROM t WHERE a IS NOT NULL OR b IS NULL",
            ),
            (
                "select * from t where a = ? limit 10, 20",
                "SELECT * FROM t WHERE a = ? LIMIT ?, ?",
            ),
            (
                "update t set a=a+1, b = null where id=?",
                "UPDATE t SET a = a + ?, b = NULL WHERE id = ?",
            ),
        ] {
            assert_eq!(text(statement), expected, "{statement}");
        }
    }

    #[test]
    fn rows_of_an_insert_are_one() {
        let one = text("INSERT INTO t (a, b) VALUES (1, 'x')");
        assert_eq!(one, "INSERT INTO t(a, b) VALUES (?+)");
        assert_eq!(
            text("insert into t(a,b) values (1,'x'),(2,NULL), (3, 'z');"),
            one
        );
        assert_eq!(
            text("INSERT INTO t VALUES (1, NOW(), NULL), (2, NOW(), 5)"),
            "INSERT INTO t VALUES (?, NOW(), ?)"
        );
        assert_eq!(
            text("insert into t values (1),(2)"),
            "INSERT INTO t VALUES (?)"
        );
    }

    #[test]
    fn blanks_comments_and_case_do_not_matter() {
        let plain = text("SELECT a.b FROM db.t WHERE x >= 1");
        for other in [
            "select  a . b\n\tfrom db.t where x>=2",
            "/* app=web */ SELECT a.b FROM db.t -- comment 7\n WHERE x >= 3;",
            "SELECT a.b # note\nFROM db.t WHERE x >= 0x10 ; ",
        ] {
            assert_eq!(text(other), plain, "{other}");
        }
        assert_eq!(plain, "SELECT a.b FROM db.t WHERE x >= ?");
        // Names are told apart by case, as MySQL does with tables.
        assert_ne!(text("SELECT 1 FROM T"), text("SELECT 1 FROM t"));
        assert_eq!(text("select `order` from `t`"), "SELECT `order` FROM `t`");
        assert_eq!(
            text("SET @x = 1, @@session.sql_mode = 'ANSI'"),
            "SET @x = ?, @@session.sql_mode = ?"
        );
    }

    #[test]
    fn statements_cut_in_the_middle_still_meet() {
        let list = cut("SELECT * FROM t WHERE id IN (1, 2, 3");
        assert_eq!(list, "SELECT * FROM t WHERE id IN (?+…");
        assert_eq!(cut("SELECT * FROM t WHERE id IN (1, 2, 3, 4, "), list);
        assert_eq!(cut("SELECT * FROM t WHERE id IN (17, 'unterminated"), list);
        let rows = cut("INSERT INTO t VALUES (1, 'a'), (2, 'b'), (3, 'c");
        assert_eq!(rows, "INSERT INTO t VALUES (?+)…");
        assert_eq!(cut("INSERT INTO t VALUES (1, 'a'), (2,"), rows);
        assert_eq!(cut("INSERT INTO t VALUES (1, 'a'),"), rows);
        assert_eq!(cut("SELECT col, oth"), "SELECT col…");
        assert_eq!(text("SELECT 'never closed"), "SELECT…");
        assert_eq!(text(""), "");
    }

    #[test]
    fn anything_at_all_has_a_digest() {
        for bytes in [
            &b"\xff\xfe\0SELECT"[..],
            b")))((((",
            b"`",
            b"/* never closed",
            b"'\\",
            b"$$ {} [] \\ ; ;; @ @@ :",
            b"/*!40101 SET NAMES utf8 */",
        ] {
            digest(bytes, false);
            digest(bytes, true);
        }
        // Every prefix of a statement, as a capture limit may cut it.
        let statement = "INSERT INTO `t` (a, b) VALUES (-1, 'x\\'y'), (0x2, \"z\") /* c */ ON DUPLICATE KEY UPDATE a = 1;";
        for end in 0..statement.len() {
            digest(&statement.as_bytes()[..end], true);
        }
    }

    #[test]
    fn text_made_to_be_slow_is_not() {
        let start = std::time::Instant::now();
        for slow in [
            "(".repeat(30_000) + "1" + &")".repeat(30_000),
            "(a,".repeat(20_000),
            "('a',".repeat(13_000),
            "(".repeat(20_000) + &"),(".repeat(15_000),
        ] {
            digest(slow.as_bytes(), true);
        }
        // 25 ms; 1.1 s when each end of a group looked at all of it.
        assert!(start.elapsed() < std::time::Duration::from_millis(600));
    }

    #[test]
    fn long_digests_are_shown_in_part_and_told_apart() {
        let columns: Vec<String> = (0..1000).map(|i| format!("column_{i}")).collect();
        let a = digest(
            format!("SELECT {} FROM a", columns.join(", ")).as_bytes(),
            false,
        );
        let b = digest(
            format!("SELECT {} FROM b", columns.join(", ")).as_bytes(),
            false,
        );
        assert_eq!(a.text, b.text);
        assert_ne!(a.id, b.id);
        assert!(a.text.len() <= MOST_SHOWN + '…'.len_utf8());
    }
}
