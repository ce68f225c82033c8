"""The table ``[auth]``: the tokens of clients. Without a key no token is needed."""

from __future__ import annotations

from typing import Annotated, Final, Literal, TypeAlias
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

SOURCES: Final = ("key", "key_file", "jwks_url")
"""The settings for the key; exactly one is set."""


def _frozen(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def _names(value: object) -> object:
    """Accept a single name beside a list of names."""
    if isinstance(value, str):
        return (value,) if value else ()
    return _frozen(value)


def _url(text: str) -> str:
    if not text:
        return text
    parts = urlsplit(text)  # raises ValueError for an invalid port or address
    is_known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    if not is_known or "@" in parts.netloc or not text.isprintable() or " " in text:
        raise ValueError(text)
    return text


Text: TypeAlias = Annotated[str, Field(description="a text")]
KeyText: TypeAlias = Annotated[
    str, Field(description="a secret of at least 32 bytes, or a public key in PEM")
]
KeyFile: TypeAlias = Annotated[str, Field(description="the path of a file with a key")]
Algorithms: TypeAlias = Annotated[
    tuple[Literal["HS256", "RS256", "ES256", "EdDSA"], ...],
    BeforeValidator(_frozen),
    Field(description='a list of "HS256", "RS256", "ES256" and "EdDSA"'),
]
JwksUrl: TypeAlias = Annotated[
    str,
    AfterValidator(_url),
    Field(description='a URL such as "https://example.com/.well-known/jwks.json", or ""'),
]
Audience: TypeAlias = Annotated[
    tuple[Annotated[str, Field(min_length=1)], ...],
    BeforeValidator(_names),
    Field(description="a text, or a list of texts"),
]
TokenName: TypeAlias = Annotated[
    str, Field(min_length=1, description='a key of the auth of clients, such as "token"')
]
Leeway: TypeAlias = Annotated[float, Field(ge=0, le=300, description="a number of seconds from 0 to 300")]
Switch: TypeAlias = Annotated[bool, Field(description="true or false")]


class AuthSettings(BaseModel):
    """The table ``[auth]``."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    key: KeyText = ""
    """A secret for HS256, or a public key in PEM."""
    key_file: KeyFile = ""
    """A file with such a key; relative paths count from the config file."""
    jwks_url: JwksUrl = ""
    """The address of the issuer's public keys."""
    algorithms: Algorithms = ()
    """The allowed algorithms of tokens; required with a key."""
    issuer: Text = ""
    """The expected claim ``iss``; "" takes any."""
    audience: Audience = ()
    """The allowed values of the claim ``aud``; without any, tokens must not have the claim."""
    leeway: Leeway = 5.0
    """How far clocks may differ, in seconds."""
    token: TokenName = "token"  # noqa: S105 -- the name of a key
    """The key of the client's ``auth`` with the token."""
    require_exp: Switch = True
    """Whether a token without an end (``exp``) is refused."""

    @property
    def is_needed(self) -> bool:
        """Whether clients need a token."""
        return any(getattr(self, source) for source in SOURCES)

    def problem(self) -> tuple[str, str] | None:
        """Return a key in conflict with the others, and the expected value; None for valid settings."""
        named = [source for source in SOURCES if getattr(self, source)]
        if not named:  # a forgotten key would leave the server open
            fields = AuthSettings.model_fields.items()
            others = [name for name, field in fields if getattr(self, name) != field.default]
            expected = f"one of {', '.join(SOURCES)} in [auth] beside it"
            return (others[0], expected) if others else None
        if len(named) > 1:
            return named[1], f"nothing beside [auth] {named[0]}"
        if not self.algorithms:
            return named[0], "algorithms in [auth] beside it"
        if self.jwks_url and "HS256" in self.algorithms:
            return "algorithms", "no HS256 with jwks_url, where the keys are public"
        return None
