"""Where settings come from, which source wins, and what is said when they make no sense."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from vfsmount.config import ApiSettings, build, get_value, load_login_settings, load_settings
from vfsmount.config_sources import Found, Places, read_layers
from vfsmount.errors import AuthFailed, ConfigError
from vfsmount.login_file import Login, read_login, write_login

ENDPOINT = "http://manager.example:8081"
KEYS = {"BACKEND_ACCESS_KEY": "AKIAENVIRONMENT00000", "BACKEND_SECRET_KEY": "environment-secret-0123456789"}
COMPLETE = {"BACKEND_ENDPOINT": ENDPOINT, **KEYS}
SESSION = {"BACKEND_ENDPOINT": "https://web.example", "BACKEND_ENDPOINT_TYPE": "session"}


@pytest.fixture
def where(tmp_path: Path) -> Places:
    """Empty places, and a current directory two levels down."""
    directory = tmp_path / "project" / "deep"
    directory.mkdir(parents=True)
    return Places(tmp_path / "config.toml", tmp_path / "state", tmp_path / "official", directory)


def write(path: Path, text: str, mode: int = 0o600) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def load(
    where: Places, environ: Mapping[str, str], flags: Mapping[str, str | None] | None = None
) -> ApiSettings:
    return load_settings(flags or {}, environ, where=where)


def refusal(where: Places, environ: Mapping[str, str], flags: Mapping[str, str | None] | None = None) -> str:
    """The message of the one-line refusal."""
    with pytest.raises(ConfigError) as e:
        load(where, environ, flags)
    message = str(e.value)
    assert "\n" not in message
    assert "secret-0123456789" not in message
    return message


# --- meanings ------------------------------------------------------------------------------------


def test_defaults_are_the_official_clients_but_for_the_endpoint(where: Places) -> None:
    settings = load(where, COMPLETE)
    assert settings == ApiSettings(
        endpoints=(ENDPOINT,),
        access_key=KEYS["BACKEND_ACCESS_KEY"],
        secret_key=KEYS["BACKEND_SECRET_KEY"],
    )
    assert (settings.mode, settings.domain, settings.group) == ("api", "default", "default")
    assert (settings.connect_timeout_s, settings.read_timeout_s, settings.verify_tls) == (10.0, 0.0, True)


def test_every_variable_has_its_meaning(where: Places) -> None:
    settings = load(
        where,
        {
            **KEYS,
            "BACKEND_ENDPOINT": "http://a:8081/, https://b.example/prefix/ ,http://a:8081",
            "BACKEND_DOMAIN": "research",
            "BACKEND_GROUP": "vision",
            "BACKEND_OVERRIDE_STORAGE_PROXY": "http://in:6021/download=https://out/download,http://in:6022=https://out:2",
            "BACKEND_CONNECTION_TIMEOUT": "2.5",
            "BACKEND_READ_TIMEOUT": "60",
            "BACKEND_SKIP_SSLCERT_VALIDATION": "Yes",
        },
    )
    assert settings.endpoints == ("http://a:8081", "https://b.example/prefix")
    assert (settings.domain, settings.group) == ("research", "vision")
    assert settings.storage_proxy_map == (
        ("http://in:6021/download", "https://out/download"),
        ("http://in:6022", "https://out:2"),
    )
    assert (settings.connect_timeout_s, settings.read_timeout_s) == (2.5, 60.0)
    assert not settings.verify_tls


@pytest.mark.parametrize("word", ["n", "No", "f", "FALSE", "0"])
def test_no_in_every_spelling(where: Places, word: str) -> None:
    assert load(where, {**COMPLETE, "BACKEND_SKIP_SSLCERT_VALIDATION": word}).verify_tls


@pytest.mark.parametrize("word", ["y", "Yes", "t", "TRUE", "1"])
def test_yes_in_every_spelling_also_under_the_alias(where: Places, word: str) -> None:
    assert not load(where, {**COMPLETE, "BACKEND_SKIP_SSLCERT_VERIFICATION": word}).verify_tls


def test_real_spelling_beats_the_alias(where: Places) -> None:
    both = {"BACKEND_SKIP_SSLCERT_VALIDATION": "no", "BACKEND_SKIP_SSLCERT_VERIFICATION": "yes"}
    assert load(where, {**COMPLETE, **both}).verify_tls


def test_empty_address_map_as_the_official_client_spells_it(where: Places) -> None:
    assert load(where, {**COMPLETE, "BACKEND_OVERRIDE_STORAGE_PROXY": "{}"}).storage_proxy_map == ()


def test_secret_is_not_in_the_repr(where: Places) -> None:
    assert KEYS["BACKEND_SECRET_KEY"] not in repr(load(where, COMPLETE))
    assert KEYS["BACKEND_SECRET_KEY"] not in repr(read_layers({}, COMPLETE, where))


# --- sources -------------------------------------------------------------------------------------


def test_each_source_beats_the_next(where: Places) -> None:
    assert where.directory
    write(where.official / "config.toml", '[backend-ai]\nendpoint = "http://official"\n')
    write(
        where.official / "credentials.toml",
        '[backend-ai]\naccess_key = "AKIAOFFICIAL"\nsecret_key = "official-secret-0123456789"\n',
    )
    assert load(where, {}).endpoints == ("http://official",)
    assert load(where, {}).access_key == "AKIAOFFICIAL"
    write(where.directory.parent / ".env", "BACKEND_ENDPOINT=http://dotenv\n")
    assert load(where, {}).endpoints == ("http://dotenv",)
    write(where.config_file, 'default_profile = "lab"\n[profiles.lab]\nendpoint = "http://profile"\n')
    assert load(where, {}).endpoints == ("http://profile",)
    assert load(where, {"BACKEND_ENDPOINT": "http://environment"}).endpoints == ("http://environment",)
    flags = {"endpoint": "http://flag"}
    assert load(where, {"BACKEND_ENDPOINT": "http://environment"}, flags).endpoints == ("http://flag",)


def test_legacy_variable_is_used_only_without_the_new_one(where: Places) -> None:
    legacy = {"SORNA_ENDPOINT": "http://legacy", **KEYS}
    assert load(where, legacy).endpoints == ("http://legacy",)
    assert load(where, {**legacy, "BACKEND_ENDPOINT": "http://new"}).endpoints == ("http://new",)


def test_empty_variable_counts_as_not_set(where: Places) -> None:
    write(where.config_file, 'default_profile = "lab"\n[profiles.lab]\nendpoint = "http://profile"\n')
    assert load(where, {**KEYS, "BACKEND_ENDPOINT": ""}).endpoints == ("http://profile",)


def test_profile_is_chosen_by_flag_then_variable_then_default(where: Places) -> None:
    write(
        where.config_file,
        'default_profile = "a"\n'
        + "".join(f'[profiles.{p}]\nendpoint = "http://{p}"\n' for p in ("a", "b", "c")),
    )
    assert load(where, KEYS).endpoints == ("http://a",)
    by_variable = {**KEYS, "VFSMOUNT_PROFILE": "b"}
    assert load(where, by_variable).endpoints == ("http://b",)
    assert load(where, by_variable, {"profile": "c"}).endpoints == ("http://c",)


def test_profile_takes_toml_values_of_the_natural_kind(where: Places) -> None:
    write(
        where.config_file,
        """
        default_profile = "lab"
        [profiles.lab]
        endpoint = ["http://a", "http://b"]
        access_key = "AKIAPROFILE"
        secret_key = "profile-secret-0123456789"
        connect_timeout = 3
        read_timeout = 1.5
        insecure = true
        storage_proxy_map = { "http://in:6021" = "http://out:6021" }
        """,
    )
    settings = load(where, {})
    assert settings.endpoints == ("http://a", "http://b")
    assert settings.secret_key == "profile-secret-0123456789"
    assert (settings.connect_timeout_s, settings.read_timeout_s, settings.verify_tls) == (3.0, 1.5, False)
    assert settings.storage_proxy_map == (("http://in:6021", "http://out:6021"),)


def test_environment_over_a_profile_asked_for_by_name_is_said_aloud(
    where: Places, expect_warnings: list[object]
) -> None:
    write(where.config_file, '[profiles.lab]\nendpoint = "http://profile"\n')
    assert load(where, COMPLETE, {"profile": "lab"}).endpoints == (ENDPOINT,)
    assert "BACKEND_ENDPOINT from the environment is used instead" in str(
        [r.getMessage() for r in expect_warnings]  # type: ignore[attr-defined]
    )


def test_nearest_dotenv_is_read_with_quotes_export_and_comments(where: Places) -> None:
    assert where.directory
    write(where.directory.parent / ".env", "BACKEND_ENDPOINT=http://far\n")
    write(where.directory / ".env", 'export BACKEND_ENDPOINT="http://near"  # ours\nOTHER=1\n')
    assert load(where, KEYS).endpoints == ("http://near",)


def test_dotenv_that_would_win_in_the_official_client_is_noted(where: Places) -> None:
    assert where.directory
    write(where.directory / ".env", "BACKEND_ENDPOINT=http://near\n")
    assert load(where, COMPLETE).endpoints == (ENDPOINT,)
    assert "here the environment wins" in str(read_layers({}, COMPLETE, where).notes)


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a file away needs root")
def test_dotenv_of_another_user_is_not_read(where: Places, expect_warnings: list[object]) -> None:
    assert where.directory
    write(where.directory / ".env", "BACKEND_ENDPOINT=http://attacker\n", 0o644)
    os.chown(where.directory / ".env", 12345, 12345)
    assert "BACKEND_ENDPOINT" in refusal(where, KEYS)
    assert expect_warnings


def test_secret_key_from_a_file_named_on_the_command_line(where: Places, tmp_path: Path) -> None:
    write(tmp_path / "key", "file-secret-0123456789\n")
    flags = {"endpoint": ENDPOINT, "access_key": "AKIAFLAG", "secret_key_file": str(tmp_path / "key")}
    assert load(where, {}, flags).secret_key == "file-secret-0123456789"


def test_secret_key_itself_is_not_taken_from_the_command_line(where: Places) -> None:
    flags = {"endpoint": ENDPOINT, "access_key": "AKIAFLAG", "secret_key": "flag-secret-0123456789"}
    assert "BACKEND_SECRET_KEY is not set" in refusal(where, {}, flags)


def test_each_value_remembers_its_source(where: Places) -> None:
    assert where.directory
    write(where.config_file, '[profiles.lab]\ndomain = "research"\n')
    write(where.directory / ".env", "BACKEND_GROUP=vision\n")
    flags = {"profile": "lab", "endpoint": "http://flag"}
    found = read_layers(flags, {"SORNA_ACCESS_KEY": "AKIA", "BACKEND_READ_TIMEOUT": "5"}, where)
    assert {key: get_value(found, key).source for key in ("endpoint", "domain", "group", "access_key")} == {
        "endpoint": "command line",
        "domain": f"profile lab in {where.config_file}",
        "group": str(where.directory / ".env"),
        "access_key": "environment, SORNA_ACCESS_KEY",
    }
    assert get_value(found, "read_timeout").source == "environment"
    assert get_value(found, "connect_timeout").source == "default"
    assert get_value(found, "secret_key").source == "not set"


# --- refusals ------------------------------------------------------------------------------------


def test_missing_settings_are_named_in_one_sentence(where: Places) -> None:
    message = refusal(where, {})
    assert message.startswith("BACKEND_ENDPOINT, BACKEND_ACCESS_KEY and BACKEND_SECRET_KEY are not set")
    assert refusal(where, KEYS).startswith("BACKEND_ENDPOINT is not set")
    assert refusal(where, {**COMPLETE, "BACKEND_SECRET_KEY": ""}).startswith("BACKEND_SECRET_KEY is not set")


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("BACKEND_ENDPOINT", "manager.example:8081"),
        ("BACKEND_ENDPOINT", "ftp://manager.example"),
        ("BACKEND_ENDPOINT", "http://"),
        ("BACKEND_ENDPOINT", "http://manager:port"),
        ("BACKEND_ENDPOINT", "http://[::1"),
        ("BACKEND_ENDPOINT", " , "),
        ("BACKEND_ENDPOINT", "http://user:secret-0123456789@manager"),
        ("BACKEND_ENDPOINT", "http://manager?token=secret-0123456789"),
        ("BACKEND_ENDPOINT_TYPE", "docker"),
        ("BACKEND_CONNECTION_TIMEOUT", "0"),
        ("BACKEND_CONNECTION_TIMEOUT", "soon"),
        ("BACKEND_READ_TIMEOUT", "-1"),
        ("BACKEND_READ_TIMEOUT", "inf"),
        ("BACKEND_READ_TIMEOUT", "nan"),
        ("BACKEND_SKIP_SSLCERT_VALIDATION", "maybe"),
        ("BACKEND_OVERRIDE_STORAGE_PROXY", "http://in"),
        ("BACKEND_OVERRIDE_STORAGE_PROXY", "in=out"),
        ("BACKEND_OVERRIDE_STORAGE_PROXY", "http://a=http://b,http://a=http://c"),
        ("BACKEND_DOMAIN", "re\nsearch"),
        ("BACKEND_GROUP", "visión"),
        ("BACKEND_ACCESS_KEY", "AKIA\r\nX: y"),
        ("BACKEND_SECRET_KEY", "schlüssel-secret-0123456789"),
    ],
)
def test_senseless_text_is_refused_by_name(where: Places, variable: str, text: str) -> None:
    assert variable in refusal(where, {**COMPLETE, variable: text})


def test_refusal_says_where_the_text_is_from(where: Places) -> None:
    write(where.config_file, '[profiles.lab]\nread_timeout = "soon"\n')
    message = refusal(where, {**COMPLETE, "VFSMOUNT_PROFILE": "lab"})
    assert f"BACKEND_READ_TIMEOUT (from profile lab in {where.config_file})" in message


def test_halves_of_two_key_pairs_are_not_put_together(where: Places) -> None:
    write(
        where.official / "credentials.toml",
        '[backend-ai]\naccess_key = "AKIAOFFICIAL"\nsecret_key = "official-secret-0123456789"\n',
    )
    environ = {"BACKEND_ENDPOINT": ENDPOINT, "BACKEND_ACCESS_KEY": KEYS["BACKEND_ACCESS_KEY"]}
    message = refusal(where, environ)
    assert "BACKEND_ACCESS_KEY is from environment" in message
    assert "BACKEND_SECRET_KEY is from" in message


def test_one_pair_may_come_from_two_places(where: Places) -> None:
    write(where.config_file, 'default_profile = "lab"\n[profiles.lab]\naccess_key = "AKIAPROFILE"\n')
    settings = load(
        where, {"BACKEND_ENDPOINT": ENDPOINT, "BACKEND_SECRET_KEY": "environment-secret-0123456789"}
    )
    assert settings.access_key == "AKIAPROFILE"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_config_file_with_a_secret_that_others_may_open_is_refused(where: Places, mode: int) -> None:
    write(where.config_file, '[profiles.lab]\nsecret_key = "profile-secret-0123456789"\n', mode)
    assert "chmod 600" in refusal(where, COMPLETE)


def test_config_file_without_a_secret_may_be_open(where: Places) -> None:
    write(where.config_file, '[profiles.lab]\nendpoint = "http://profile"\n', 0o644)
    assert load(where, KEYS, {"profile": "lab"}).endpoints == ("http://profile",)


def test_official_credentials_open_to_others_are_used_with_a_warning(
    where: Places, expect_warnings: list[object]
) -> None:
    text = '[backend-ai]\naccess_key = "AKIAOFFICIAL"\nsecret_key = "official-secret-0123456789"\n'
    write(where.official / "credentials.toml", text, 0o644)
    assert load(where, {"BACKEND_ENDPOINT": ENDPOINT}).access_key == "AKIAOFFICIAL"
    assert expect_warnings


def test_unknown_profile_is_refused_by_what_asked_for_it(where: Places) -> None:
    assert "VFSMOUNT_PROFILE" in refusal(where, {**COMPLETE, "VFSMOUNT_PROFILE": "nowhere"})
    assert "--profile" in refusal(where, COMPLETE, {"profile": "nowhere"})


def test_misspelt_key_in_a_profile_is_refused(where: Places) -> None:
    write(where.config_file, 'default_profile = "lab"\n[profiles.lab]\nendpont = "http://profile"\n')
    assert "endpont" in refusal(where, COMPLETE)


def test_broken_toml_is_refused_without_quoting_it(where: Places) -> None:
    write(where.config_file, "[profiles.lab]\nsecret_key = profile-secret-0123456789\n")
    assert "not valid TOML" in refusal(where, COMPLETE)


@contextmanager
def ordinary_user() -> Iterator[None]:
    """This process, who cannot go where it is not let in."""
    before = os.geteuid()
    try:
        if before == 0:
            os.seteuid(65534)
        yield
    finally:
        os.seteuid(before)


@pytest.mark.parametrize("environ", [COMPLETE, SESSION])
def test_home_of_somebody_else_is_passed_by(tmp_path: Path, environ: Mapping[str, str]) -> None:
    closed = tmp_path / "closed"
    write(closed / "config.toml", f'endpoint = "{ENDPOINT}"\n')
    write(closed / ".env", f"BACKEND_ENDPOINT={ENDPOINT}\n")
    closed.chmod(0)
    try:
        with ordinary_user():
            where = Places(closed / "config.toml", closed / "state", closed / "official", closed)
            if environ is COMPLETE:
                assert load(where, environ).endpoints == (ENDPOINT,)
                with pytest.raises(ConfigError):
                    load(where, KEYS)
            else:
                with pytest.raises(AuthFailed, match="nobody is logged in"):
                    load(where, environ)
    finally:
        closed.chmod(0o700)


def test_unreadable_secret_key_file_is_refused(where: Places, tmp_path: Path) -> None:
    assert "--secret-key-file" in refusal(where, COMPLETE, {"secret_key_file": str(tmp_path / "nowhere")})
    write(tmp_path / "empty", "\n")
    assert "--secret-key-file" in refusal(where, COMPLETE, {"secret_key_file": str(tmp_path / "empty")})


# --- session mode --------------------------------------------------------------------------------


def test_session_mode_needs_no_keys_but_a_login(where: Places) -> None:
    with pytest.raises(AuthFailed, match="vfsmount login"):
        load(where, SESSION)
    settings, path = load_login_settings({}, SESSION, where=where)
    write_login(path, Login(settings.endpoints[0], "cookie-0123456789", "me@example.org"))
    assert load(where, SESSION) == settings
    assert (settings.mode, settings.access_key, settings.secret_key) == ("session", "", "")


def test_keys_are_ignored_in_session_mode(where: Places) -> None:
    settings, _ = load_login_settings({}, {**SESSION, **KEYS}, where=where)
    assert settings.access_key == ""


def test_login_in_api_mode_names_the_variable(where: Places) -> None:
    with pytest.raises(ConfigError, match="BACKEND_ENDPOINT_TYPE"):
        load_login_settings({}, {}, where=where)


def test_two_clusters_keep_two_logins(where: Places) -> None:
    _, one = load_login_settings({}, SESSION, where=where)
    _, two = load_login_settings({}, {**SESSION, "BACKEND_ENDPOINT": "https://other"}, where=where)
    assert one != two


def test_login_is_stored_for_our_eyes_only(where: Places) -> None:
    _, path = load_login_settings({}, SESSION, where=where)
    write_login(path, Login("https://web.example", "cookie-0123456789", "me@example.org"))
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    login = read_login(path)
    assert (login.cookie, login.username) == ("cookie-0123456789", "me@example.org")
    assert "cookie-0123456789" not in repr(login)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_login_that_others_may_read_is_not_used(where: Places) -> None:
    _, path = load_login_settings({}, SESSION, where=where)
    write_login(path, Login("https://web.example", "cookie-0123456789"))
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="vfsmount login"):
        read_login(path)


def test_damaged_login_asks_for_a_new_one(where: Places) -> None:
    _, path = load_login_settings({}, SESSION, where=where)
    write(path, "{")
    with pytest.raises(AuthFailed, match="vfsmount login"):
        read_login(path)


def test_settings_are_built_without_touching_the_disk(where: Places) -> None:
    found = Found(read_layers({}, COMPLETE, where).layers)
    build(found, Path("/nonexistent"))
    assert not where.state_dir.exists()
