"""The store: what is acknowledged is kept, what is held is one server's, what ends ends once. On SQLite, and on PostgreSQL where there is one."""

from __future__ import annotations

import copy
import math
import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from buckets import bucket
from databases import postgres

from inkwash.errors import BusyError, InkwashError, UsageError

pytest.importorskip("sqlalchemy")

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import delete, text, update

from inkwash.errors import ResourceError
from inkwash.serve.store import Store, open_store
from inkwash.serve.store.answers import Answer, InWork, Other
from inkwash.serve.store.database import first_line
from inkwash.serve.store.jobs import MAX_ATTEMPTS, Ahead, Image, New, new_id, states_of
from inkwash.serve.store.tables import answers, jobs, metadata

IMAGE = Image("jobs/x/0.png", "0" * 64, {"seed": 1})
ANSWER = Answer(200, "application/json", b"{}")


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def address(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path_factory.mktemp('store')}/here/jobs.db"
        return
    with postgres() as url:
        yield url


@pytest.fixture
def store(address: str, tmp_path: Path) -> Iterator[Store]:
    found = open_store(address, str(tmp_path))
    with found.database.engine.begin() as connection:
        connection.execute(delete(jobs))
        connection.execute(delete(answers))
    yield found
    found.database.close()


def job(owner: str, model: str = "m", cost: float = 10.0) -> New:
    return New(new_id(), owner, model, {"requests": [{}], "files": []}, cost, 4, ["note"], time.time(), None)


def add(store: Store, owner: str, model: str = "m", cost: float = 10.0) -> str:
    new = job(owner, model, cost)
    store.jobs.add(new)
    return new.id


def rival(store: Store) -> Store:
    """Another server on the same database, as far as rows know."""
    database, jobs, answers = copy.copy(store.database), copy.copy(store.jobs), copy.copy(store.answers)
    database.holder = "another"
    jobs.database = answers.database = database
    return Store(database, store.files, jobs, answers)


def lapse(store: Store) -> None:
    """All leases have passed."""
    with store.database.engine.begin() as connection:
        connection.execute(update(jobs).values(lease=0.0))
        connection.execute(update(answers).values(lease=0.0))


def test_migrations_make_the_tables_that_the_code_means(store: Store) -> None:
    with store.database.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


def test_the_line_is_fair_by_key(store: Store) -> None:
    mine = [add(store, "alice") for _ in range(4)]
    late = [add(store, "bob", cost=7.0) for _ in range(2)]
    elsewhere = add(store, "alice", model="other")
    order = [mine[0], late[0], mine[1], late[1], mine[2], mine[3]]
    for place, one in enumerate(order):
        owner = "alice" if one in mine else "bob"
        row = store.jobs.get(one, owner)
        assert row is not None
        assert store.jobs.ahead("m", owner, row.number).jobs == place
    assert store.jobs.ahead("m", "bob") == Ahead(5, 3 * 10.0 + 2 * 7.0)
    assert store.jobs.ahead("m", "carol") == Ahead(2, 17.0), "a third key's first job comes after the first of the others"
    taken = []
    while (row := store.jobs.claim("m")) is not None:
        taken.append(row.id)
    assert taken == order
    found = store.jobs.claim("other")
    assert found is not None
    assert found.id == elsewhere


def test_a_job_ends_once(store: Store) -> None:
    one = add(store, "alice")
    assert not store.jobs.finish(one, [IMAGE], []), "nobody has claimed it"
    store.jobs.claim("m")
    assert not rival(store).jobs.finish(one, [IMAGE], [])
    assert store.jobs.finish(one, [IMAGE, IMAGE], ["note", "more"])
    assert not store.jobs.finish(one, [IMAGE], [])
    assert not store.jobs.fail(one, {})
    assert not store.jobs.cancel(one, "alice")
    assert not store.jobs.release(one, True)
    row = store.jobs.get(one, "alice")
    assert row is not None
    assert (row.status, row.done, row.warnings) == ("done", 4, ["note", "more"])
    assert store.jobs.images(one) == [IMAGE, IMAGE]


def test_what_a_dead_server_held_goes_back_into_the_line(store: Store) -> None:
    one = add(store, "alice")
    dead = rival(store)
    assert dead.jobs.claim("m") is not None
    assert store.jobs.recover() == 0, "its lease has not passed"
    assert store.jobs.claim("m") is None
    lapse(store)
    assert store.jobs.recover() == 1
    row = store.jobs.claim("m")
    assert row is not None
    assert (row.id, row.attempts) == (one, 2)
    assert dead.jobs.renew({one: 3}) == set(), "it comes back and has lost the job"
    assert not dead.jobs.finish(one, [IMAGE], [])
    assert store.jobs.renew({one: 3}) == {one}
    assert store.jobs.finish(one, [IMAGE], [])


def test_a_job_that_kills_its_servers_fails(store: Store) -> None:
    one = add(store, "alice")
    for _ in range(MAX_ATTEMPTS):
        assert store.jobs.claim("m") is not None
        lapse(store)
        store.jobs.recover()
    row = store.jobs.get(one, "alice")
    assert row is not None
    assert (row.status, row.error["code"]) == ("failed", "too_many_attempts")
    two = add(store, "alice")
    for _ in range(MAX_ATTEMPTS + 3):
        assert store.jobs.claim("m") is not None
        assert store.jobs.release(two, False), "a server that drains blames nobody"
    for _ in range(MAX_ATTEMPTS):
        assert store.jobs.claim("m") is not None
        assert store.jobs.release(two, True)
    assert store.jobs.claim("m") is None


def test_cancelled_is_cancelled(store: Store) -> None:
    one, two = add(store, "alice"), add(store, "alice")
    assert not store.jobs.cancel(one, "bob"), "it is not his"
    assert store.jobs.cancel(two, "alice")
    store.jobs.claim("m")
    assert store.jobs.cancel(one, "alice")
    assert store.jobs.renew({one: 1}) == set()
    assert not store.jobs.finish(one, [IMAGE], [])
    assert store.jobs.images(one) == []
    assert store.jobs.claim("m") is None


def test_pages_and_owners(store: Store) -> None:
    mine = [add(store, "alice") for _ in range(5)]
    add(store, "bob")
    first = store.jobs.page("alice", 3)
    assert [row.id for row in first] == mine[:1:-1]
    assert [row.id for row in store.jobs.page("alice", 3, first[-1].number)] == mine[1::-1]
    assert store.jobs.page("alice", 9, None, "done") == []
    assert store.jobs.get(mine[0], "bob") is None
    assert (store.jobs.count("alice"), store.jobs.count()) == (5, 6)


def test_what_ended_long_ago_is_forgotten(store: Store) -> None:
    one, two = add(store, "alice"), add(store, "alice")
    store.jobs.claim("m")
    store.jobs.finish(one, [IMAGE], [])
    assert store.jobs.ended(60) == {}
    assert store.jobs.ended(-60) == {one: [IMAGE.path, *states_of(one, 1)]}
    assert store.jobs.get(one, "alice") is not None, "until its files are gone"
    store.jobs.forget([one])
    assert store.jobs.get(one, "alice") is None
    assert store.jobs.images(one) == []
    store.jobs.forget([])
    assert store.jobs.get(two, "alice") is not None, "it waits still"


def test_an_answer_is_given_again(store: Store) -> None:
    begin = store.answers.begin
    assert begin("alice", "k", "digest") is None
    with pytest.raises(InWork):
        begin("alice", "k", "digest")
    store.answers.keep("alice", "k", ANSWER)
    assert begin("alice", "k", "digest") == ANSWER
    with pytest.raises(Other):
        begin("alice", "k", "another")
    assert begin("bob", "k", "another") is None, "keys of others are others"
    store.answers.drop("bob", "k")
    assert begin("bob", "k", "digest") is None
    store.answers.drop("alice", "k")
    assert begin("alice", "k", "digest") == ANSWER, "only what has no answer is dropped"
    store.answers.forget(-60, math.inf)
    assert begin("alice", "k", "another") is None


def test_the_oldest_answers_of_an_owner_go_where_they_are_too_large_together(store: Store) -> None:
    ten = ANSWER._replace(content=bytes(10))
    for owner, key in (("alice", "1"), ("alice", "2"), ("bob", "1"), ("alice", "3")):
        assert store.answers.begin(owner, key, "digest") is None
        store.answers.keep(owner, key, ten)
        time.sleep(0.01)                                   # the clock of a database may be coarse
    assert store.answers.begin("alice", "4", "digest") is None, "in work, and of no size yet"
    store.answers.forget(60, 20)
    assert store.answers.begin("alice", "1", "another") is None, "it was forgotten"
    assert [store.answers.begin("alice", key, "digest") for key in ("2", "3")] == [ten, ten]
    assert store.answers.begin("bob", "1", "digest") == ten
    with pytest.raises(InWork):
        store.answers.begin("alice", "4", "digest")


def test_a_key_of_a_dead_server_is_free(store: Store) -> None:
    dead = rival(store)
    assert dead.answers.begin("alice", "k", "digest") is None
    with pytest.raises(InWork):
        store.answers.begin("alice", "k", "digest")
    lapse(store)
    dead.answers.renew([("alice", "k"), ("alice", "unknown")])
    with pytest.raises(InWork):
        store.answers.begin("alice", "k", "digest")
    lapse(store)
    assert store.answers.begin("alice", "k", "digest") is None
    with pytest.raises(InWork):
        dead.answers.keep("alice", "k", ANSWER)
    new = job("alice")
    with pytest.raises(InWork):
        dead.jobs.add(new, ("k", ANSWER))
    assert store.jobs.get(new.id, "alice") is None, "job and answer are one transaction"
    store.jobs.add(new, ("k", ANSWER))
    assert store.answers.begin("alice", "k", "digest") == ANSWER


def test_one_server_has_an_sqlite_file(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path}/jobs.db"
    first = open_store(address, None)
    with pytest.raises(BusyError) as caught:
        open_store(address, None)
    assert (caught.value.code, caught.value.exit_code) == ("store_in_use", 9)
    one = add(first, "alice")
    assert first.answers.begin("alice", "k", "digest") is None
    assert first.jobs.claim("m") is not None
    with first.database.engine.connect() as connection:
        found = [connection.scalar(text(f"PRAGMA {name}")) for name in ("journal_mode", "synchronous", "foreign_keys")]
    assert found == ["wal", 2, 1], "synchronous is FULL"
    first.database.close()
    second = open_store(address, None)
    assert second.jobs.recover() == 1, "who held it is dead for certain, so its lease is not waited for"
    row = second.jobs.claim("m")
    assert row is not None
    assert row.id == one
    assert second.answers.begin("alice", "k", "other") is None
    second.database.close()


def test_a_closed_store_is_free_though_a_forked_process_has_its_handle(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path}/jobs.db"
    first = open_store(address, None)
    lock = first.database._lock
    assert lock is not None
    held = os.dup(lock)                                    # what a fork leaves to a child until it becomes another program
    first.database.close()
    open_store(address, None).database.close()
    os.close(held)


def test_a_store_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    address = f"sqlite:///{tmp_path}/jobs.db"
    open_store(address, None).database.close()
    with sqlite3.connect(tmp_path / "jobs.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    for _ in range(2):                                     # the first one keeps no hold of the file
        with pytest.raises(UsageError) as caught:
            open_store(address, None)
        assert caught.value.code == "store_newer"


@pytest.mark.parametrize("table", ["jobs", "answers"])
def test_a_store_that_lost_a_table_is_told(tmp_path: Path, table: str) -> None:
    address = f"sqlite:///{tmp_path}/jobs.db"
    open_store(address, None).database.close()
    with sqlite3.connect(tmp_path / "jobs.db") as connection:
        connection.execute(f"DROP TABLE {table}")
    for _ in range(2):                                     # the first one keeps no hold of the file
        with pytest.raises(ResourceError, match=f"no such table: {table}") as caught:
            open_store(address, None)
        assert caught.value.code == "store_unavailable"


def test_a_link_to_a_file_has_the_lock_of_the_file(tmp_path: Path) -> None:
    first = open_store(f"sqlite:///{tmp_path}/jobs.db", str(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "link.db").symlink_to(tmp_path / "jobs.db")
    with pytest.raises(BusyError):
        open_store(f"sqlite:///{tmp_path}/elsewhere/link.db", str(tmp_path))
    first.database.close()


@pytest.mark.parametrize(("error", "said"), [(OSError(), "OSError"), (OSError("no\nroom"), "no"), (OSError(5, "Input/output error"), "[Errno 5]")])
def test_an_error_without_words_has_a_name(error: OSError, said: str) -> None:
    assert first_line(error).startswith(said)


@pytest.mark.parametrize(("db", "files", "code"), [
    ("jobs.db", None, "bad_db"), ("sqlite://", None, "bad_db"), ("mysql://a:secret@h/d", None, "bad_db"),
    ("postgresql://a:secret@h:port/d", "files", "bad_db"),
    ("postgresql://a:secret@127.0.0.1:1/d", None, "bad_files"), ("postgresql://a:secret@127.0.0.1:1/d", "files", "store_unavailable"),
    ("sqlite:///jobs.db", "ftp://place", "bad_files")])
def test_wrong_addresses_are_told(db: str, files: str | None, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InkwashError) as caught:
        open_store(db, files)
    assert caught.value.code == code
    assert "secret" not in caught.value.line()


def test_files(tmp_path: Path) -> None:
    from inkwash.serve.store.files import Files

    files = Files(str(tmp_path / "deep" / "files"))
    files.put("jobs/a/0.png", b"one")
    files.put("jobs/a/0.png", b"two")
    assert files.get("jobs/a/0.png") == b"two"
    assert files.get("jobs/b/0.png") is None
    files.delete(["jobs/a/0.png", "jobs/b/0.png"])
    assert files.get("jobs/a/0.png") is None
    assert [path for path in (tmp_path / "deep" / "files").rglob("*") if path.name == "a"] == [], "no empty folder of each job stays"
    files.put("jobs/c/0.png", b"three")
    (tmp_path / "deep" / "files" / "jobs").rename(tmp_path / "gone")
    (tmp_path / "deep" / "files" / "jobs").write_text("a file in the way")
    with pytest.raises(ResourceError):
        files.put("jobs/a/0.png", b"three")


def test_files_in_a_bucket(monkeypatch: pytest.MonkeyPatch) -> None:
    from inkwash.serve.store.files import Files

    with bucket() as found:
        for name, value in {"ACCESS_KEY_ID": "me", "SECRET_ACCESS_KEY": "secret", "REGION": "here", "ALLOW_HTTP": "true",
                            "ENDPOINT_URL": f"http://127.0.0.1:{found.server_port}"}.items():
            monkeypatch.setenv(f"AWS_{name}", value)
        files = Files("s3://pictures/inkwash")
        files.put("jobs/a/0.png", b"one")
        assert found.kept == {"/pictures/inkwash/jobs/a/0.png": b"one"}
        assert found.keys == {"me"}
        assert files.get("jobs/a/0.png") == b"one"
        assert files.get("jobs/b/0.png") is None
        files.delete(["jobs/a/0.png", "jobs/b/0.png"])
        assert found.kept == {}
        found.away = True
        for call in (lambda: files.put("jobs/a/0.png", b"one"), lambda: files.get("jobs/a/0.png"), lambda: files.delete(["jobs/a/0.png"])):
            with pytest.raises(ResourceError) as caught:
                call()
            assert caught.value.code == "store_unavailable"
            assert "secret" not in caught.value.line()
