"""Takes secrets out of a text: of the cells that commits record."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from urllib.parse import quote

REDACTED = "[redacted]"
"""What stands where a secret stood."""

# A quoted literal, or several that Python joins: "a" "b", 'a' + 'b', over lines, with comments between.
_ONE = (
    r"""(?:\"\"\".*?(?:\"\"\"|\Z)|\'\'\'.*?(?:\'\'\'|\Z)|"""
    r""""(?:[^"\\\n]|\\.)*+"|\'(?:[^\'\\\n]|\\.)*+\')"""
)
_GAP = r"(?:[\s\\+]|\#[^\n]*\n)*+"
_PREFIX = r"[rbfut]{0,2}"
_TEXT = rf"(?P<secret>{_ONE}(?:{_GAP}{_PREFIX}{_ONE})*+)"
_TEXTS = rf"(?P<secret>{_ONE}(?:(?:{_GAP}[,:])?{_GAP}{_PREFIX}{_ONE})*+)"
_STRONG = (
    r"(?:token(?!iz)|secret|passw|passphrase|(?<![a-z])pass(?![a-z])|pwd|credential|cookie"
    r"|authorization|auth(?!or))"
)
_WEAK = r"(?:key(?!word|board)|signature|(?<![a-z])sas(?![a-z]))"


# Looking for such names is what costs, so they are looked for once and marked; a name then starts with the mark.
_MARK = "\0"
_TO_MARK = re.compile(rf"(?<![\w.-])(?=[\w.-]*?(?:{_STRONG}|{_WEAK}))[\w.-]++", re.IGNORECASE)
_NAME = r"\0[\w.-]++"
_STRONG_NAME = rf"\0(?=[\w.-]*?{_STRONG})[\w.-]++"
_IS = r"\s*+(?::[ \t]*+[\w.\[\]|, \0]{1,60}+=|:=|[=!]=|=|:|or\b)"
_CALL = r"(?:\0?(?:[\w.]{0,40}(?:Secret|Credential)\w{0,40}|[\w.]{0,20}b64decode|Fernet|bytes|str)\()?"
_MIXED = r"(?=\S{0,99}\d)(?=\S{0,99}[A-Z])(?=\S{0,99}[a-z])"
_BARE = r"[^\s\"'&;,()\[\]{}=#]"
_LINE_END = r"(?=[ \t]*+(?:\n|\Z))"
_I, _IS_ALL = re.IGNORECASE, re.IGNORECASE | re.DOTALL
# Every quantifier is possessive or bounded: no text takes more than linear time.
_NAMED = (
    # A quoted text under a name that looks secret, as a variable, an entry, an argument; it goes, the rest stays.
    re.compile(rf"(?P<keep>{_NAME}[\"']?[\])]?{_IS}\s*+{_CALL}(?:\({_GAP})?{_PREFIX}){_TEXT}", _IS_ALL),
    # Several texts at once: user, password = two texts; a list of tokens; a tuple for auth; a table of passwords.
    re.compile(
        rf"(?P<keep>{_STRONG_NAME}(?:\s*+,\s*+[\w.\0]++){{0,5}}+\s*+=\s*+[(\[{{]?{_GAP}{_PREFIX}){_TEXTS}", _IS_ALL
    ),
    # The text after a secret name in a call: setenv("API_KEY", "…"), getenv("API_KEY", "…").
    re.compile(rf"(?P<keep>\(\s*+[\"']{_NAME}[\"']\s*+,\s*+{_PREFIX}){_TEXT}", _IS_ALL),
    # Connection strings: AccountKey=…;
    re.compile(rf"(?P<keep>{_NAME}=)(?P<secret>[^\s\"';=]++=*+)(?=;)"),
    re.compile(rf"(?P<keep>;\s?{_NAME}=)(?P<secret>[^\s\"';=]++=*+)"),
    # Shell lines: export TOKEN=…, %env TOKEN …, --password …
    re.compile(rf"(?P<keep>\b(?:export|env|set_env|set|setx)[ \t]+{_NAME}[ \t=]\s?)(?P<secret>[^\s\"';]++)"),
    re.compile(rf"(?P<keep>(?<!\S)(?=\0--){_NAME}[ \t=])(?P<secret>[^\s\"']{{4,}})"),
    # Values without quotes in ini files and the like: with digits, and not a name of Python's.
    re.compile(
        rf"(?P<keep>{_NAME}=)(?!\0?(?:[a-z_]\w*+\.)++[a-z_]\w*+(?:[\s,)\]:;]|\Z))"
        rf"(?={_BARE}{{6}})(?={_BARE}{{0,99}}\d)(?P<secret>{_BARE}++=*+)(?![(\[])",
        _I,
    ),
    re.compile(
        rf"(?P<keep>{_NAME}[ \t]*+=[ \t]*+)(?=[\w/+~\0-]{{16}}){_MIXED}(?P<secret>[\w/+~\0-]++={{0,2}}){_LINE_END}"
    ),
    re.compile(rf"(?P<keep>{_NAME}:[ \t]+)(?={_BARE}{{6}})(?=\S{{0,99}}\d)(?P<secret>{_BARE}++=*+){_LINE_END}"),
)
_FORMS = (
    # The arguments of calls that take nothing but credentials.
    re.compile(
        r"(?P<keep>(?:\b(?:login|set_password)|BasicAuth|DigestAuth|Credential|SecretStr)"
        rf"\({_GAP}{_PREFIX}){_TEXTS}",
        re.DOTALL,
    ),
    re.compile(r"(?P<keep>(?<!\S)(?:-u|--user)[ \t=]+[\"']?[^\s:\"']++:)(?P<secret>[^\s\"']++)"),
    re.compile(r"(?P<keep>\bAuthorization:\s*+(?:\w++[ \t]++)?)(?P<secret>[^\s\"']++)", _I),
    # URLs: https://user:password@host, https://token@host, ?sig=…&token=…
    re.compile(r"(?P<keep>://[^\s/:@\"']*+:)(?P<secret>[^\s/\"']+)(?=@)"),
    re.compile(r"(?P<keep>://)(?P<secret>[^\s/:@\"'{}]{20,}+)(?=@)"),
    re.compile(
        r"(?P<keep>[?&](?=[\w-]{0,40}?(?:sig|key|token|secret|passw|pwd|auth|credential)|code=)[\w-]++=)"
        r"(?P<secret>[^\s&\"'#]++)",
        _I,
    ),
    # Tokens of well-known services, and keys whose form gives them away.
    re.compile(r"(?P<keep>\bBearer\s++)(?P<secret>[\w.~+/-]{8,}+=*+)", _I),
    re.compile(r"(?P<secret>(?<![A-Z0-9])(?:AKIA|ASIA|AROA)[A-Z0-9]{12,}+)"),
    re.compile(
        r"(?P<secret>(?<![\w-])(?:gh[pousr]_|github_pat_|gl[a-z]{1,6}-|xox[abeprs]-|xapp-|[sr]k[-_]|hf_|pypi-|npm_"
        r"|dckr_pat_|dop_v1_|ya29\.|AIza|ATATT|SG\.)[\w.-]{16,}+)"
    ),
    re.compile(r"(?P<secret>(?<![\w-])eyJ[\w-]{10,}+\.[\w-]{10,}+\.[\w-]*+)"),
    re.compile(r"(?P<keep>hooks\.slack\.com/services/)(?P<secret>[\w/]++)"),
    re.compile(rf"(?<=[\"'])(?=[A-Za-z0-9/+]{{40}}[\"']){_MIXED}(?P<secret>[A-Za-z0-9/+]{{40}})"),
    re.compile(r"(?P<secret>(?<![A-Za-z0-9+/])[A-Za-z0-9+/]{86}==)"),
    re.compile(
        r"(?P<secret>-----BEGIN [A-Z ]{0,30}PRIVATE KEY[A-Z ]{0,10}-----.*?"
        r"(?:-----END [A-Z ]{0,30}PRIVATE KEY[A-Z ]{0,10}-----|\Z))",
        re.DOTALL,
    ),
)
_ENV_NAME = re.compile(r"key|secret|token|passw|pass(?:\b|_|phrase)|pwd|credential|auth|sas(?![a-z])", re.IGNORECASE)
_SHORTEST = 6  # a shorter value ("1", "true", "main") would blank out harmless words
_EMPTY = ('""', "''")


def hide(text: str, values: Iterable[str]) -> str:
    """Return `text` with the given values replaced, also where they are quoted as in URLs or in Python."""
    held = {value for value in values if value}
    held |= {form for value in held for form in (quote(value), quote(value, safe=""), repr(value)[1:-1])}
    if not held:
        return text
    # In one pass, so that no value is looked for in what replaced another; the longest goes first.
    return re.sub("|".join(map(re.escape, sorted(held, key=len, reverse=True))), REDACTED, text)


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """Return `text` with secrets replaced.

    Replaced are the given values, values of environment variables whose names look secret, and the usual patterns:
    quoted values of names that look secret, connection strings, passwords and signatures in URLs, and the tokens of
    well-known services.
    """
    named = {value for name, value in os.environ.items() if _ENV_NAME.search(name) and len(value) >= _SHORTEST}
    text = hide(text, named.union(secrets))
    text = _TO_MARK.sub(rf"{_MARK}\g<0>", text.replace(_MARK, ""))
    for pattern in _NAMED:
        text = pattern.sub(_blank, text)
    text = text.replace(_MARK, "")
    for pattern in _FORMS:
        text = pattern.sub(_blank, text)
    return text


def _blank(match: re.Match[str]) -> str:
    secret = match["secret"]
    if secret in _EMPTY:
        return match[0]
    mark = secret[0] if secret[0] in "\"'" else ""
    return f"{match.groupdict().get('keep') or ''}{mark}{REDACTED}{mark}"
