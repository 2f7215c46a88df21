"""The three phases of a root rotation: what each changes, whom it waits for, what a restart finds."""

from __future__ import annotations

import stat
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pymesh.control.identity import private_files, storage
from pymesh.control.identity.authority import (
    CertificateAuthority,
    LifetimePolicy,
    fingerprint,
    private_pem,
    self_signed,
)
from pymesh.control.identity.ledger import FILE, Holding, Ledger
from pymesh.control.identity.rotation import SETTLED, Rotation, RotationError
from pymesh.control.identity.spiffe import Identity
from pymesh.control.identity.supplied import SuppliedAuthority
from pymesh.control.identity.trust import PhaseError, Trust

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
POLICY = LifetimePolicy()
CART = Identity("cluster.local", "shop", "cart")
NODE = "sidecar~10.0.0.1~cart-0.shop~shop.svc.cluster.local"


@dataclass
class Asking:
    """A proxy's stream."""

    key: tuple[str, str]
    has_bundle: bool


@dataclass
class World:
    """A control plane's authority on a clock of its own, and the streams of its proxies."""

    folder: Path
    now: datetime = START
    streams: list[Asking] = field(default_factory=list)
    told: int = 0
    supplied: Path | None = None

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Start, or start again with what is on disk."""
        first = storage.open_supplied(self.supplied, self.now, POLICY) if self.supplied else None
        trust = storage.open_or_create(self.folder, "cluster.local", self.now, POLICY, first)

        def make() -> CertificateAuthority:
            return self_signed("cluster.local", self.now, POLICY)

        ledger = Ledger.open(self.folder, self.now)
        self.rotation = Rotation(
            trust, ledger, lambda t: storage.keep(self.folder, t), lambda: self.now, None if self.supplied else make
        )
        self.rotation.subscribers = lambda: self.streams
        self.rotation.on_change(self.tell)

    def tell(self) -> None:
        self.told += 1

    def certify(self, node: str = NODE, identity: Identity = CART) -> None:
        """A proxy renews its certificate."""
        trust = self.rotation.trust
        request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
        pem = request.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256()).public_bytes(
            serialization.Encoding.PEM
        )
        issued = trust.signer.sign(pem.decode(), identity, self.now)
        self.rotation.issued(issued, trust, identity, node)
        self.now += SETTLED

    def stream(self, has_bundle: bool, node: str = NODE) -> Asking:
        asking = Asking((str(CART), node), has_bundle)
        self.streams.append(asking)
        return asking


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "ca")


def test_a_rotation_from_root_to_root(world: World) -> None:
    old = world.rotation.trust.signer
    world.certify()
    stream = world.stream(has_bundle=True)

    world.rotation.prepare()
    trust = world.rotation.trust
    new = trust.other
    assert new is not None and (trust.phase, trust.signer, trust.server) == ("prepared", old, old)
    assert trust.roots == (old.root, new.root)
    stream.has_bundle = False
    with pytest.raises(RotationError, match=rf"1 of the proxies.*\n  {NODE} \({CART}\)\nhint: wait"):
        world.rotation.activate()
    assert world.rotation.status()["next"] == {"command": "activate", "waitsFor": [f"{NODE} ({CART})"]}
    stream.has_bundle = True

    world.rotation.activate()
    trust = world.rotation.trust
    assert (trust.phase, trust.signer, trust.other, trust.server) == ("activated", new, old, old)
    assert trust.roots == (new.root, old.root), "the root that signs comes first"
    with pytest.raises(RotationError, match=rf"holds a certificate of the old root:\n  {NODE} \(certificate"):
        world.rotation.revoke()
    world.certify()

    world.rotation.revoke()
    trust = world.rotation.trust
    assert (trust.phase, trust.signer, trust.server, trust.roots) == ("steady", new, new, (new.root,))
    assert world.told == 3
    assert world.rotation.status()["roots"] == [
        {
            "id": fingerprint(new.root),
            "subject": new.root.subject.rfc4514_string(),
            "until": new.root.not_valid_after_utc.isoformat(),
            "certificates": 1,
        }
    ]


def test_every_phase_survives_a_restart(world: World) -> None:
    world.certify()
    for change in (Rotation.prepare, Rotation.activate, partial(Rotation.revoke, force=True)):
        world.start()
        change(world.rotation)
        before = world.rotation.trust
        world.start()
        found = world.rotation.trust
        assert (found.phase, found.bundle) == (before.phase, before.bundle)
        assert [one.id for one in found.authorities] == [one.id for one in before.authorities]
        if found.phase == "prepared":
            # Its certificate went out with the bundle of one root.
            with pytest.raises(RotationError, match="has not taken the new root yet"):
                world.rotation.activate()
            world.certify()
        if found.phase == "activated":
            with pytest.raises(RotationError, match="holds a certificate of the old root"):
                world.rotation.revoke()


def test_a_change_that_cannot_be_kept_is_not_in_use(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    before = world.rotation.trust

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "authority.json")

    monkeypatch.setattr(world.rotation, "_keep", full)
    with pytest.raises(RotationError, match=r"authority\.json: No space left on device; nothing has changed"):
        world.rotation.prepare()
    assert world.rotation.trust is before and world.told == 0


def test_who_is_waited_for(world: World) -> None:
    """Who has expired holds up nobody; two proxies of one identity are told apart, and so are unnamed ones."""
    world.certify("sidecar~10.0.0.2~cart-1.shop~shop")
    world.certify("")
    world.certify("")
    world.rotation.prepare()
    assert len(world.rotation.without_bundle()) == 3
    world.certify("sidecar~10.0.0.2~cart-1.shop~shop")
    waiting = world.rotation.without_bundle()
    assert len(waiting) == 2 and all(one.startswith(f"{CART} (certificate") for one in waiting)
    world.certify("")
    assert len(world.rotation.without_bundle()) == 2, "nobody knows which of them this one replaces"
    world.now += timedelta(hours=24)
    assert world.rotation.without_bundle() == []
    world.rotation.activate()


def test_one_stream_that_took_it_is_enough_for_a_proxy(world: World) -> None:
    """The stream before it may not have ended yet; what a stream says outweighs what went out with a certificate."""
    world.rotation.prepare()
    world.stream(has_bundle=False)
    world.certify()
    assert world.rotation.without_bundle() == [f"{NODE} ({CART})"]
    world.stream(has_bundle=True)
    assert world.rotation.without_bundle() == []


def test_a_certificate_of_a_moment_ago_may_not_be_in_use(world: World) -> None:
    world.rotation.prepare()
    world.rotation.activate()
    world.certify()
    world.now -= SETTLED / 2
    with pytest.raises(RotationError, match=rf"{NODE} \(certificate .*\), renewed a moment ago"):
        world.rotation.revoke()
    world.now += SETTLED
    world.rotation.revoke()


def test_force_leaves_proxies_behind(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.certify()
    world.rotation.prepare()
    world.rotation.activate(force=True)
    world.rotation.revoke(force=True)
    assert world.rotation.trust.phase == "steady"
    assert [r.message for r in caplog.records if "left behind" in r.message] == ["proxies are left behind"] * 2


def test_phases_have_an_order(world: World) -> None:
    rotation = world.rotation
    with pytest.raises(RotationError, match="no authority is prepared; hint: prepare one first"):
        rotation.activate(force=True)
    with pytest.raises(RotationError, match="there is one authority, which signs"):
        rotation.revoke(force=True)
    rotation.prepare()
    assert rotation.trust.other is not None
    new, old = rotation.trust.other.id, rotation.trust.signer.id
    with pytest.raises(
        RotationError, match=f"authority {new} is prepared and does not sign yet; hint: activate it, or"
    ):
        rotation.revoke()
    with pytest.raises(RotationError, match=f"authority {old} cannot be revoked: it signs; hint: {new} can"):
        rotation.revoke(old, force=True)
    with pytest.raises(RotationError, match="authority beef cannot be revoked: there is none of that name"):
        rotation.revoke("beef")
    rotation.activate()
    for again in (rotation.prepare, rotation.activate):
        with pytest.raises(RotationError, match="hint: "):
            again()
    rotation.revoke(old)
    rotation.prepare()
    assert rotation.trust.other is not None
    rotation.revoke(rotation.trust.other.id)
    assert (rotation.trust.phase, rotation.trust.signer.id) == ("steady", new), "a preparation that was given up"


def test_a_trust_is_one_of_its_phases() -> None:
    one = self_signed("cluster.local", START)
    with pytest.raises(ValueError, match="a prepared trust with no other authority"):
        Trust(one, "prepared")
    with pytest.raises(PhaseError, match="signs already"):
        Trust(one).prepared(one)


def test_the_ledger_is_private_and_keeps_no_more_than_it_needs(tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path, START)
    end = int(START.timestamp()) + 3600
    for number in range(3000):
        ledger.record(Holding("spiffe://td/ns/n/sa/s", f"node-{number % 5}", f"{number:x}", "r", "b", 0.0, end), START)
    assert len(list(ledger.live(START))) == 5
    path = tmp_path / FILE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(path.read_bytes().splitlines()) < 1500
    path.write_bytes(path.read_bytes()[:-20])
    again = Ledger.open(tmp_path, START)
    assert {held.node for held in again.live(START)} <= {f"node-{number}" for number in range(5)}
    assert list(Ledger.open(tmp_path, START + timedelta(hours=2)).live(START)) == []


def test_made_up_nodes_push_out_their_own_kind_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pymesh.control.identity.ledger.MOST_NODES", 10)
    ledger = Ledger.open(tmp_path, START)
    end = int(START.timestamp()) + 3600
    ledger.record(Holding("spiffe://td/ns/n/sa/honest", "node", "0", "r", "b", 0.0, end), START)
    for number in range(100):
        ledger.record(Holding("spiffe://td/ns/n/sa/thief", f"{number}", f"{number:x}", "r", "b", 0.0, end), START)
    for found in (ledger, Ledger.open(tmp_path, START)):
        nodes = [held.node for held in found.live(START)]
        assert nodes == ["node", *map(str, range(90, 100))]


def test_identities_that_make_up_nodes_do_not_fill_the_volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is full nobody gets a certificate."""
    monkeypatch.setattr("pymesh.control.identity.ledger.MOST_NODES", 100)
    monkeypatch.setattr("pymesh.control.identity.ledger.MOST", 250)
    monkeypatch.setattr("pymesh.control.identity.ledger._FEW_LINES", 10)
    ledger = Ledger.open(tmp_path, START)
    end = int(START.timestamp()) + 3600
    longest = 0
    for number in range(3000):
        who = "honest" if number % 100 == 0 else f"thief{number % 7}"
        ledger.record(Holding(f"spiffe://td/ns/n/sa/{who}", f"{number}", f"{number:x}", "r", "b", 0.0, end), START)
        longest = max(longest, len((tmp_path / FILE).read_bytes().splitlines()))
    assert longest <= 2 * 250 + 1
    for found in (ledger, Ledger.open(tmp_path, START)):
        held = list(found.live(START))
        assert len(held) == 250
        # All of the honest one's: others have more.
        assert sum(one.identity.endswith("/honest") for one in held) == 30


def write(folder: Path, authority: CertificateAuthority, *more: x509.Certificate) -> None:
    """An operator's files."""
    folder.mkdir(exist_ok=True)
    (folder / "ca-cert.pem").write_text(authority.root_pem)
    roots = "".join(one.public_bytes(serialization.Encoding.PEM).decode() for one in more)
    (folder / "root-cert.pem").write_text(authority.root_pem + roots)
    private_files.write(folder / "ca-key.pem", private_pem(authority.key))


class Supplied:
    """An authority of an operator's files."""

    def __init__(self, folder: Path) -> None:
        self.files = folder / "files"
        self.first = self_signed("one.example", START)
        write(self.files, self.first)
        self.world = World(folder / "ca", supplied=self.files)
        self.start()

    def start(self) -> None:
        self.world.start()
        self.rotation = self.world.rotation
        self.follower = SuppliedAuthority(self.rotation, self.files, POLICY, lambda: self.world.now)

    def phases(self, looks: int = 4) -> list[str]:
        """What each look has led to."""
        found = []
        for _ in range(looks):
            self.follower.look()
            found.append(self.rotation.trust.phase)
        return found


@pytest.fixture
def operator(tmp_path: Path) -> Supplied:
    return Supplied(tmp_path)


def test_replaced_files_go_through_the_phases(operator: Supplied, caplog: pytest.LogCaptureFixture) -> None:
    world, second = operator.world, self_signed("two.example", START)
    assert operator.phases(2) == ["steady", "steady"]
    with pytest.raises(RotationError, match="the authority is an operator's; hint: replace its files"):
        operator.rotation.prepare()
    world.certify()
    write(operator.files, second)
    assert operator.phases() == ["prepared"] * 4
    assert operator.rotation.trust.bundle == operator.first.root_pem + second.root_pem
    waits = [r for r in caplog.records if r.message == "the supplied authority waits"]
    assert len(waits) == 1 and NODE in waits[0].__dict__["reason"], "told once"
    # The old files are gone; a restart goes on where it was.
    operator.start()
    assert operator.phases() == ["prepared"] * 4
    world.certify()
    assert operator.phases() == ["activated"] * 4
    assert operator.rotation.trust.signer.is_like(second)
    world.certify()
    assert operator.phases() == ["steady"] * 4
    assert operator.rotation.trust.bundle == second.root_pem


def test_files_put_back_end_the_preparation(operator: Supplied) -> None:
    operator.world.certify()
    write(operator.files, self_signed("two.example", START))
    assert operator.phases(1) == ["prepared"]
    write(operator.files, operator.first)
    assert operator.phases(2) == ["steady", "steady"]
    assert operator.rotation.trust.bundle == operator.first.root_pem


def test_files_that_do_not_fit_change_nothing(operator: Supplied, caplog: pytest.LogCaptureFixture) -> None:
    other = self_signed("two.example", START)
    (operator.files / "ca-cert.pem").write_text(other.root_pem)
    assert operator.phases() == ["steady"] * 4
    assert operator.rotation.trust.signer.is_like(operator.first)
    assert len([r for r in caplog.records if "key does not belong" in str(r.__dict__.get("reason"))]) == 1
    write(operator.files, other)
    assert operator.phases() == ["prepared", "activated", "steady", "steady"]


def test_more_roots_are_trusted_beside_the_authoritys_own(operator: Supplied) -> None:
    """As Istio does it: the roots of both authorities in one file first, then the other authority, then one root."""
    second = self_signed("two.example", START)
    write(operator.files, operator.first, second.root)
    assert operator.phases()[-1] == "steady"
    assert operator.rotation.trust.bundle == operator.first.root_pem + second.root_pem
    assert operator.rotation.trust.signer.id == operator.first.id
    write(operator.files, second, operator.first.root)
    assert operator.phases()[-1] == "steady"
    assert operator.rotation.trust.bundle == second.root_pem + operator.first.root_pem
    operator.world.certify()
    write(operator.files, second)
    assert operator.phases()[-1] == "steady"
    assert operator.rotation.trust.bundle == second.root_pem
