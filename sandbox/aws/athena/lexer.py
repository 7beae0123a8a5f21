"""Words, names and strings of Athena's two dialects: Hive's for DDL, Trino's for everything else."""

import re
from dataclasses import dataclass
from enum import Enum

from ..errors import QueryFailed

_PIECES = r"""\s+|--[^\n]*|/\*.*?\*/
      | (?P<string>'(?:[^']|'')*')
      | (?P<backquoted>`(?:[^`]|``)*`)
      | (?P<quoted>"(?:[^"]|"")*")
      | (?P<number>(?:\d+\.?\d*|\.\d+)[eE][+-]?\d+(?!\w) | \d+\.\d*(?!\w) | \.\d+(?!\w) | \d+(?!\w))
      | (?P<word>[\w$@]+)
      | (?P<symbol><=|>=|<>|!=|\|\||->|=>|.)"""
_TRINOS = re.compile(_PIECES, re.S | re.X)
_HIVES = re.compile(_PIECES.replace("[^']|", r"[^'\\]|\\.|").replace('[^"]|', r'[^"\\]|\\.|'), re.S | re.X)
"""In Hive's strings a backslash escapes, quotes too."""
_DDL_WITH_STRINGS = re.compile(
    r"""(?:\s|--[^\n]*|/\*.*?\*/)*+
    (ALTER\s | MSCK\s | CREATE\s+(EXTERNAL|DATABASE|SCHEMA)\s
     | CREATE\s+TABLE\s+(IF\s+NOT\s+EXISTS\s+)?[\w.`"$@-]+\s*\()""",
    re.S | re.X | re.I,
)

# https://docs.aws.amazon.com/athena/latest/ug/reserved-words.html, first list.
RESERVED_IN_DDL = frozenset(
    """
    ALL ALTER AND ARRAY AS AUTHORIZATION BETWEEN BIGINT BINARY BOOLEAN BOTH BY CASE CASHE CAST CHAR
    COLUMN CONF CONSTRAINT COMMIT CREATE CROSS CUBE CURRENT CURRENT_DATE CURRENT_TIMESTAMP CURSOR
    DATABASE DATE DAYOFWEEK DECIMAL DELETE DESCRIBE DISTINCT DIV DOUBLE DROP ELSE END EXCHANGE EXISTS
    EXTENDED EXTERNAL EXTRACT FALSE FETCH FLOAT FLOOR FOLLOWING FOR FOREIGN FROM FULL FUNCTION GRANT
    GROUP GROUPING HAVING IF IMPORT IN INNER INSERT INT INTEGER INTERSECT INTERVAL INTO IS JOIN LATERAL
    LEFT LESS LIKE LOCAL MACRO MAP MORE NONE NOT NULL NUMERIC OF ON ONLY OR ORDER OUT OUTER OVER
    PARTIALSCAN PARTITION PERCENT PRECEDING PRECISION PRESERVE PRIMARY PROCEDURE RANGE READS REDUCE
    REGEXP REFERENCES REVOKE RIGHT RLIKE ROLLBACK ROLLUP ROW ROWS SELECT SET SMALLINT START TABLE
    TABLESAMPLE THEN TIME TIMESTAMP TO TRANSFORM TRIGGER TRUE TRUNCATE UNBOUNDED UNION UNIQUEJOIN UPDATE
    USER USING UTC_TIMESTAMP VALUES VARCHAR VIEWS WHEN WHERE WINDOW WITH
    """.split()
)


class Dialect(Enum):
    """Whose rules of quoting hold."""

    HIVE = "hive"
    TRINO = "trino"


class SyntaxFailure(QueryFailed):
    """A statement that cannot be read, in the words of Hive's parser."""


@dataclass(frozen=True)
class Token:
    """A piece of a statement; white space and comments are none."""

    kind: str
    text: str
    start: int
    end: int


class Lexer:
    """Walks over the tokens of a statement."""

    def __init__(self, sql: str, dialect: Dialect | None = None) -> None:
        """At the start of a statement, or of a part of one.

        Args:
            sql: the text.
            dialect: whose strings are in it; of a whole statement its first words say it.
        """
        if dialect is None:
            dialect = Dialect.HIVE if _DDL_WITH_STRINGS.match(sql) else Dialect.TRINO
        self.sql = sql
        self._tokens = [
            Token(match.lastgroup, match.group(), match.start(), match.end())
            for match in (_HIVES if dialect is Dialect.HIVE else _TRINOS).finditer(sql)
            if match.lastgroup
        ]
        self._next = 0

    def peek(self, ahead: int = 0) -> Token:
        """A token that is to come; past the end, one of kind `end`."""
        place = self._next + ahead
        if place < len(self._tokens):
            return self._tokens[place]
        return Token("end", "<EOF>", len(self.sql), len(self.sql))

    def word(self, ahead: int = 0) -> str:
        """The word or symbol to come, in upper case; empty if it is neither."""
        token = self.peek(ahead)
        return token.text.upper() if token.kind in ("word", "symbol", "number") else ""

    def take(self) -> Token:
        """The next token."""
        token = self.peek()
        self._next += 1
        return token

    def accept(self, words: str) -> bool:
        """Takes these words if they come next."""
        wanted = words.split()
        if all(self.word(ahead) == word for ahead, word in enumerate(wanted)):
            self._next += len(wanted)
            return True
        return False

    def expect(self, words: str) -> None:
        """Takes these words, which must come next."""
        if not self.accept(words):
            raise self.failure(f"expecting {words}")

    @property
    def at_end(self) -> bool:
        """Whether nothing comes any more."""
        return self.peek().kind == "end"

    def expect_end(self) -> None:
        """Nothing may follow."""
        if not self.at_end:
            raise self.failure("statement", missing_end=True)

    def rest(self) -> str:
        """The text from here on."""
        return self.sql[self.peek().start :]

    def position(self, token: Token) -> tuple[int, int]:
        """Line, from 1, and column, from 0."""
        start = self.sql.rfind("\n", 0, token.start) + 1
        return self.sql.count("\n", 0, token.start) + 1, token.start - start

    def failure(self, where: str, *, missing_end: bool = False) -> SyntaxFailure:
        """What Hive's parser says when the next token is not what it needs."""
        token = self.peek()
        line, column = self.position(token)
        if missing_end:
            before = self._tokens[self._next - 1].text if self._next else ""
            text = f"missing EOF at '{token.text}' near '{before}'"
        else:
            near = "' '".join(self.peek(ahead).text for ahead in range(3))
            text = f"cannot recognize input near '{near}' in {where}"
        return SyntaxFailure(f"FAILED: ParseException line {line}:{column} {text}")

    def identifier(self, dialect: Dialect, where: str = "identifier") -> str:
        """A name, in lower case: Athena folds every case."""
        token = self.peek()
        if dialect is Dialect.HIVE:
            fits = token.kind == "backquoted" or (
                token.kind == "word"
                and token.text.upper() not in RESERVED_IN_DDL
                and not token.text.startswith("_")
            )
        else:
            fits = token.kind in ("quoted", "word")
        if not fits:
            raise self.failure(where)
        return unquote(self.take().text).lower()

    def name(self, dialect: Dialect, where: str = "table name") -> list[str]:
        """A name of one to three parts."""
        parts = [self.identifier(dialect, where)]
        while self.accept("."):
            parts.append(self.identifier(dialect, where))
        if len(parts) > 3:
            raise self.failure(where)
        return parts

    def string(self) -> str:
        """The value of a string literal of DDL, where a backslash escapes."""
        token = self.peek()
        # Hive takes both kinds of quotes for strings.
        if token.kind not in ("string", "quoted"):
            raise self.failure("string")
        # Athena keeps line breaks, and one blank of what indents a line: PyAthena's `test_create_table_avro`,
        # https://github.com/pyathena-dev/PyAthena/blob/v3.34.0/tests/pyathena/sqlalchemy/test_base.py
        text = re.sub(r"(?<=\n)[ \t]+", " ", unquote(self.take().text))
        return re.sub(r"\\([0-3][0-7]{2}|u[0-9a-fA-F]{4}|.)", _unescape, text, flags=re.S)

    def comment(self) -> str:
        """The value of a comment, in one line, as PyAthena's `test_create_table_with_comments` has it."""
        return re.sub(r"\s*\n\s*", " ", self.string())

    def parenthesised(self) -> str:
        """The text up to the parenthesis that closes the one just taken."""
        start, depth = self.peek().start, 1
        while not self.at_end:
            token = self.take()
            if token.kind == "symbol":
                depth += (token.text == "(") - (token.text == ")")
                if depth == 0:
                    return self.sql[start : token.start]
        raise self.failure("parentheses")


def _unescape(found: re.Match[str]) -> str:
    """What Hive reads for a backslash and what follows it."""
    what = found[1]
    if len(what) == 3:
        return chr(int(what, 8))
    if len(what) == 5:
        return chr(int(what[1:], 16))
    known = {"0": "\0", "b": "\b", "n": "\n", "r": "\r", "t": "\t", "Z": "\x1a", "%": "\\%", "_": "\\_"}
    return known.get(what, what)


def unquote(text: str) -> str:
    """The text within quotes of any kind."""
    if len(text) >= 2 and text[0] in "'\"`" and text[-1] == text[0]:
        return text[1:-1].replace(text[0] * 2, text[0])
    return text


def quote_name(*parts: str) -> str:
    """A name as Trino reads it."""
    return ".".join('"' + part.replace('"', '""') + '"' for part in parts)


def quote_string(text: str) -> str:
    """A string literal."""
    return "'" + text.replace("'", "''") + "'"


def split_list(text: str, dialect: Dialect = Dialect.TRINO) -> list[str]:
    """The items of a list separated by commas, which may contain brackets of any kind."""
    items, depth, start = [], 0, 0
    for token in Lexer(text, dialect)._tokens:
        if token.kind == "symbol":
            depth += (token.text in "([<") - (token.text in ")]>")
            if token.text == "," and depth == 0:
                items.append(text[start : token.start].strip())
                start = token.end
    items.append(text[start:].strip())
    return [item for item in items if item]


def strip_statement(sql: str) -> str:
    """A statement without leading comments and without its semicolon; nothing else moves."""
    while comment := re.match(r"(\s*)(--[^\n]*|/\*.*?\*/)", sql, flags=re.S):
        sql = re.sub(r"[^\n]", " ", comment[0]) + sql[comment.end() :]
    end = None
    for token in reversed(Lexer(sql)._tokens):
        if token.text != ";":
            break
        end = token.start
    return sql[:end].rstrip()


def has_several_statements(sql: str) -> bool:
    """Whether a semicolon stands between two statements."""
    return any(token.kind == "symbol" and token.text == ";" for token in Lexer(strip_statement(sql))._tokens)


def decimals_as_doubles(sql: str) -> str:
    """`1.5` → `1.5E0`: such a literal is a DOUBLE on Athena, a DECIMAL on Trino 476."""
    pieces, end = [], 0
    for token in Lexer(sql)._tokens:
        if token.kind == "number" and "." in token.text and "e" not in token.text.lower():
            pieces += [sql[end : token.start], token.text + "E0"]
            end = token.end
    return "".join([*pieces, sql[end:]])
