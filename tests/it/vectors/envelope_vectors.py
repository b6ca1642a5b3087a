#!/usr/bin/env python3
"""A second implementation of docs/formats.md, written from that page, in another language.

    envelope_vectors.py generate          write vectors.json and defects/*.json beside this file
    envelope_vectors.py check FILE        open what the product sealed: FILE is a JSON object made by tests/it/vectors.rs

Everything generated is deterministic: keys, salts and nonces are hashes of their names. Never use them for anything.
Needs the package `cryptography`.
"""

import base64
import hashlib
import json
import struct
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes, hmac
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.constant_time import bytes_eq
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

HERE = Path(__file__).parent


class Refused(Exception):
    """The bytes are not what they should be; the message names the check that said so."""


# --- Conventions -----------------------------------------------------------------------------------------------------


def label(name):
    return b"oubliette/v1/" + name.encode()


def u16(n):
    return struct.pack(">H", n)


def u32(n):
    return struct.pack(">I", n)


def u64(n):
    return struct.pack(">Q", n)


def lp(*items):
    return b"".join(u32(len(item)) + item for item in items)


def sha256(data):
    return hashlib.sha256(data).digest()


def hmac_sha256(key, data):
    mac = hmac.HMAC(key, hashes.SHA256())
    mac.update(data)
    return mac.finalize()


def expand(key, info):
    return HKDFExpand(algorithm=hashes.SHA256(), length=32, info=info).derive(key)


def canonical(value):
    """RFC 8785 for what occurs here: text, arrays of text, objects with ASCII keys and text values."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()


# --- Keys ------------------------------------------------------------------------------------------------------------


def key_id(key):
    return expand(key, label("key-commitment"))


def slot_key(deks):
    if len(deks) == 1:
        return deks[0]
    return hmac_sha256(label("joint-key"), b"".join(deks))  # HKDF-Extract


@dataclass(frozen=True)
class Wrapping:
    store: bytes
    subject: bytes
    purpose: str
    generation: int
    kek_id: bytes
    epoch: int

    def aad(self, header, kid):
        names = (self.store, self.subject, self.purpose.encode(), u32(self.generation))
        return lp(label("wrap"), header, *names, kid)


def wrap(kek, about, dek, nonce):
    header = b"OUK1" + bytes([1, 0, 0, 0]) + about.kek_id + u32(about.epoch) + nonce
    return header + AESGCM(kek).encrypt(nonce, dek, about.aad(header, key_id(dek)))


# --- Envelope --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Context:
    store: bytes
    event: bytes
    type: str
    schema: int
    owners: tuple
    purpose: str
    slot: int
    pointers: tuple

    def paths_sha256(self):
        return sha256(canonical(list(self.pointers)))

    def content_key(self, key):
        return expand(key, lp(label("content-key"), self.store, self.event, u16(self.slot)))

    def aad(self, header):
        subject = b"".join(self.owners)
        what = (self.store, self.event, self.type.encode(), u32(self.schema))
        who = (subject, self.purpose.encode(), u16(self.slot), self.paths_sha256())
        return lp(label("aad"), header, *what, *who)

    def to_json(self):
        return {
            "store": self.store.hex(), "event": self.event.hex(), "type": self.type, "schema": self.schema,
            "owners": [owner.hex() for owner in self.owners], "purpose": self.purpose, "slot": self.slot,
            "pointers": list(self.pointers),
        }

    @staticmethod
    def from_json(o):
        return Context(
            bytes.fromhex(o["store"]), bytes.fromhex(o["event"]), o["type"], o["schema"],
            tuple(bytes.fromhex(owner) for owner in o["owners"]), o["purpose"], o["slot"], tuple(o["pointers"]),
        )


def bucket(length):
    for size in (128, 256, 512):
        if length <= size:
            return size
    return (length + 1023) // 1024 * 1024


def inner(salt, text, size=None):
    clear = salt + u32(len(text)) + text
    return clear.ljust(size or bucket(len(clear)), b"\0")


def header_of(kid, nonce, length):
    return b"OUB1" + bytes([1, 1, 0, 0]) + kid + nonce + u32(length)


def seal_inner(key, context, clear, nonce, kid=None):
    header = header_of(kid or key_id(key), nonce, len(clear))
    return header + AESGCM(context.content_key(key)).encrypt(nonce, clear, context.aad(header))


def seal(key, context, salt, text, nonce):
    return seal_inner(key, context, inner(salt, text), nonce)


def unseal(key, context, envelope):
    header, sealed = envelope[:56], envelope[56:]
    if len(header) < 56 or header[:8] != b"OUB1" + bytes([1, 1, 0, 0]):
        raise Refused("header")
    (length,) = struct.unpack(">I", header[52:])
    if length == 0 or bucket(length) != length or len(sealed) != length + 16:
        raise Refused("length")
    if not bytes_eq(header[8:40], key_id(key)):
        raise Refused("commitment")
    try:
        clear = AESGCM(context.content_key(key)).decrypt(header[40:52], sealed, context.aad(header))
    except InvalidTag:
        raise Refused("tag") from None
    (size,) = struct.unpack(">I", clear[32:36])
    salt, text = clear[:32], clear[36 : 36 + size]
    if inner(salt, text) != clear or len(text) != size:
        raise Refused("padding")
    return salt, text


def blob_of(envelopes):
    return b"".join(u32(len(envelope)) + envelope for envelope in envelopes)


# --- Proofs ----------------------------------------------------------------------------------------------------------


def commit(salt, data):
    return hmac_sha256(salt, lp(label("commit"), data))


def leaf(o):
    ids = (bytes.fromhex(o["store"]), u64(o["position"]), bytes.fromhex(o["event"]), bytes.fromhex(o["stream"]))
    facts = (u64(o["revision"]), o["type"].encode(), struct.pack(">q", o["recorded_ms"]))
    commitments = [bytes.fromhex(c) for c in (o["c_meta"], o["c_public"], *o["c_slots"])]
    return sha256(b"\0" + lp(label("leaf"), *ids, *facts, *commitments))


def root(leaves):
    """RFC 6962, 2.1, word for word."""
    if not leaves:
        return sha256(b"")
    if len(leaves) == 1:
        return leaves[0]
    k = left_size(len(leaves))
    return sha256(b"\1" + root(leaves[:k]) + root(leaves[k:]))


def left_size(n):
    return 1 << ((n - 1).bit_length() - 1)


def inclusion(m, leaves):
    """PATH(m, D[n]) of RFC 6962, 2.1.1."""
    if len(leaves) == 1:
        return []
    k = left_size(len(leaves))
    if m < k:
        return inclusion(m, leaves[:k]) + [root(leaves[k:])]
    return inclusion(m - k, leaves[k:]) + [root(leaves[:k])]


def consistency(m, leaves, whole=True):
    """SUBPROOF(m, D[n], b) of RFC 6962, 2.1.2."""
    if m == len(leaves):
        return [] if whole else [root(leaves)]
    k = left_size(len(leaves))
    if m <= k:
        return consistency(m, leaves[:k], whole) + [root(leaves[k:])]
    return consistency(m - k, leaves[k:], False) + [root(leaves[:k])]


def frontier(leaves):
    hashes_, start = [], 0
    for bit in range(63, -1, -1):
        if len(leaves) >> bit & 1:
            hashes_.append(root(leaves[start : start + (1 << bit)]))
            start += 1 << bit
    return b"\1" + u64(len(leaves)) + b"".join(hashes_)


def note_key_id(name, public):
    return sha256(name.encode() + b"\n\1" + public)[:4]


def verifier_key(name, public):
    return f"{name}+{note_key_id(name, public).hex()}+{base64.b64encode(bytes([1]) + public).decode()}"


def checkpoint(seed, origin, size, tree_root):
    key = Ed25519PrivateKey.from_private_bytes(seed)
    public = key.public_key().public_bytes_raw()
    text = f"{origin}\n{size}\n{base64.b64encode(tree_root).decode()}\n"
    signature = base64.b64encode(note_key_id(origin, public) + key.sign(text.encode())).decode()
    return f"{text}\n\u2014 {origin} {signature}\n", verifier_key(origin, public)


def check_checkpoint(note, vkey):
    name, id_, public = vkey.split("+", 2)
    public = base64.b64decode(public, validate=True)[1:]
    if verifier_key(name, public) != vkey or note_key_id(name, public).hex() != id_:
        raise Refused("verifier key")
    text, _, line = note.rpartition("\n\n")
    dash, signer, signature = line.removesuffix("\n").split(" ")
    signature = base64.b64decode(signature, validate=True)
    if (dash, signer, signature[:4].hex()) != ("\u2014", name, id_):
        raise Refused("signature line")
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature[4:], text.encode() + b"\n")
    except InvalidSignature:
        raise Refused("signature") from None
    origin, size, tree_root = text.split("\n")
    return origin, int(size), base64.b64decode(tree_root, validate=True)


def erasure_digests(entries):
    digest, out = bytes(32), []
    for number, (subject, scope) in enumerate(entries, 1):
        digest = sha256(lp(label("erasure-record"), digest, u64(number), subject, scope.encode()))
        out.append(digest)
    return out


def external_id_tag(key, external_id):
    return hmac_sha256(key, lp(label("subject-map"), external_id.encode()))


def natural_key_tag(key, role, values):
    return hmac_sha256(key, lp(label("natural-key"), role.encode(), canonical(values)))


# --- One ciphertext for two keys (Dodis, Grubbs, Ristenpart, Woodage 2018) -------------------------------------------


def gf_mul(x, y):
    """Product in GF(2^128) as GCM numbers its bits: the leftmost is the coefficient of x^0."""
    product = 0
    for i in range(127, -1, -1):
        if y >> i & 1:
            product ^= x
        x = (x >> 1) ^ (0xE1 << 120 if x & 1 else 0)
    return product


def gf_pow(x, n):
    result = 1 << 127
    while n:
        if n & 1:
            result = gf_mul(result, x)
        x, n = gf_mul(x, x), n >> 1
    return result


def aes(key, block):
    return Cipher(algorithms.AES(key), modes.ECB()).encryptor().update(block)


def two_key_envelope(dek_1, dek_2, context, text, nonce):
    """An envelope that names dek_1 and opens under it, whose ciphertext and tag raw AES-GCM also opens under dek_2. The
    salt is free, so its first block is bent until both keys give the same tag."""
    clear = inner(bytes(32), text)
    header = header_of(key_id(dek_1), nonce, len(clear))
    aad = context.aad(header)
    keys = [context.content_key(dek) for dek in (dek_1, dek_2)]
    stream = Cipher(algorithms.AES(keys[0]), modes.CTR(nonce + u32(2))).encryptor()
    ciphertext = bytes(16) + stream.update(clear)[16:]

    def blocks(data):
        return [int.from_bytes(data[i : i + 16].ljust(16, b"\0"), "big") for i in range(0, len(data), 16)]

    def tag(key, data):
        h = int.from_bytes(aes(key, bytes(16)), "big")
        total = 0
        for block in [*blocks(aad), *blocks(data), len(aad) * 8 << 64 | len(data) * 8]:
            total = gf_mul(total ^ block, h)
        return total ^ int.from_bytes(aes(key, nonce + u32(1)), "big"), h

    (tag_1, h_1), (tag_2, h_2) = (tag(key, ciphertext) for key in keys)
    power = len(ciphertext) // 16 + 1
    bent = gf_mul(tag_1 ^ tag_2, gf_pow(gf_pow(h_1, power) ^ gf_pow(h_2, power), (1 << 128) - 2))
    ciphertext = bent.to_bytes(16, "big") + ciphertext[16:]
    return header + ciphertext + tag(keys[0], ciphertext)[0].to_bytes(16, "big")


# --- Vectors ---------------------------------------------------------------------------------------------------------


def fixed(name, size=32):
    """Bytes that are the same on every run."""
    return sha256(b"test vector " + name.encode())[:size]


def base_context(owners=1):
    people = sorted(fixed(f"subject {n}", 16) for n in range(owners))
    return Context(
        fixed("store", 16), fixed("event", 16), "contact-created", 3, tuple(people), "marketing", 0, ("/email", "/name")
    )


def dek_of(subject):
    return fixed("dek of " + subject.hex())


def slot_vector(name, context, text):
    deks = [dek_of(owner) for owner in context.owners]
    key, salt, nonce = slot_key(deks), fixed("salt of " + name), fixed("nonce of " + name, 12)
    envelope = seal(key, context, salt, text, nonce)
    assert unseal(key, context, envelope) == (salt, text)
    return {
        "name": name, **context.to_json(), "paths_sha256": context.paths_sha256().hex(),
        "deks": [dek.hex() for dek in deks], "slot_key": key.hex(), "kid": key_id(key).hex(),
        "content_key": context.content_key(key).hex(), "aad": context.aad(envelope[:56]).hex(),
        "salt": salt.hex(), "nonce": nonce.hex(), "json": text.decode(), "envelope": envelope.hex(),
        "commitment": commit(salt, text).hex(),
    }


def slot_vectors():
    text = canonical({"/email": "ada@example.org", "/name": "Ada"})
    yield slot_vector("one owner", base_context(), text)
    yield slot_vector("two owners", base_context(2), text)
    yield slot_vector("three owners", base_context(3), text)
    yield slot_vector("last slot, no schema", replace(base_context(), slot=65535, schema=0), text)
    strange = replace(base_context(), pointers=("/a~1b", '/q"\\', "/naïve/😀"), purpose="a")
    yield slot_vector("escaped pointers", strange, canonical({"/naïve/😀": "π\n"}))
    yield slot_vector("empty object", replace(base_context(), pointers=()), b"{}")
    for size in (92, 93, 220, 221, 476, 477, 988, 989, 2012, 2013, 5000):
        text = b'{"/t":"' + b"x" * (size - 9) + b'"}'
        assert len(text) == size
        yield slot_vector(f"{size} bytes of JSON", replace(base_context(), pointers=("/t",)), text)


def wrapped_vectors():
    for name, generation, epoch in (("first", 0, 1), ("later", 3, 70_000)):
        about = Wrapping(fixed("store", 16), fixed("subject 0", 16), "payments", generation, fixed("kek id", 16), epoch)
        kek, dek, nonce = fixed("kek"), fixed("wrapped dek " + name), fixed("wrap nonce " + name, 12)
        record = wrap(kek, about, dek, nonce)
        assert len(record) == 88
        yield {
            "store": about.store.hex(), "subject": about.subject.hex(), "purpose": about.purpose,
            "generation": generation, "kek_id": about.kek_id.hex(), "epoch": epoch, "kek": kek.hex(),
            "dek": dek.hex(), "kid": key_id(dek).hex(), "nonce": nonce.hex(), "wrapped": record.hex(),
        }


def leaf_vectors():
    for position, slots, ms in ((0, 0, 0), (41, 1, 1_700_000_000_000), (2**40, 3, -1)):
        fields = {
            "store": fixed("store", 16).hex(), "position": position, "event": fixed("event", 16).hex(),
            "stream": fixed("stream", 16).hex(), "revision": position // 2, "type": "contact-created",
            "recorded_ms": ms, "c_meta": commit(fixed("meta salt"), b"{}").hex(),
            "c_public": commit(fixed("public salt"), b'{"plan":"pro"}').hex(),
            "c_slots": [commit(fixed(f"slot salt {n}"), b"{}").hex() for n in range(slots)],
        }
        yield {**fields, "leaf": leaf(fields).hex()}


def merkle_vectors():
    leaves = [sha256(b"\0" + u64(n)) for n in range(13)]
    return {
        "leaves": [hash_.hex() for hash_ in leaves],
        "roots": [root(leaves[:n]).hex() for n in range(14)],
        "frontiers": [frontier(leaves[:n]).hex() for n in range(14)],
        "inclusion": [[hash_.hex() for hash_ in inclusion(m, leaves)] for m in range(13)],
        "consistency": [[hash_.hex() for hash_ in consistency(m, leaves)] for m in range(1, 14)],
    }


def two_key_vector():
    deks = [fixed("first of two keys"), fixed("second of two keys")]
    context, text = base_context(), b'{"/email":"ada@example.org"}'
    nonce = fixed("nonce of two keys", 12)
    envelope = two_key_envelope(*deks, context, text, nonce)
    for dek in deks:
        AESGCM(context.content_key(dek)).decrypt(nonce, envelope[56:], context.aad(envelope[:56]))
    assert unseal(deks[0], context, envelope)[1] == text
    return {
        **context.to_json(), "deks": [dek.hex() for dek in deks], "json": text.decode(), "envelope": envelope.hex(),
        "content_keys": [context.content_key(dek).hex() for dek in deks], "aad": context.aad(envelope[:56]).hex(),
    }


def vectors():
    seed, origin, tree_root = fixed("signing seed"), "events.example.org/log", fixed("root")
    note, vkey = checkpoint(seed, origin, 20_852_163, tree_root)
    erased = [(fixed("subject 0", 16), "*"), (fixed("subject 1", 16), "marketing"),
              (fixed("subject 2", 16), "marketing payments")]
    tag_key, natural = fixed("subject-map key"), fixed("natural-key key")
    return {
        "slots": list(slot_vectors()),
        "two_keys": two_key_vector(),
        "wrapped": list(wrapped_vectors()),
        "leaves": list(leaf_vectors()),
        "merkle": merkle_vectors(),
        "checkpoint": {"seed": seed.hex(), "origin": origin, "size": 20_852_163, "root": tree_root.hex(),
                       "note": note, "vkey": vkey},
        "erasure_record": [
            {"subject": subject.hex(), "scope": scope, "digest": digest.hex()}
            for (subject, scope), digest in zip(erased, erasure_digests(erased), strict=True)
        ],
        "external_id": {"key": tag_key.hex(), "id": "person:ada@example.org",
                        "tag": external_id_tag(tag_key, "person:ada@example.org").hex()},
        "natural_key": {"key": natural.hex(), "role": "contact", "values": ["a1", "Ada \"King\""],
                        "tag": natural_key_tag(natural, "contact", ["a1", "Ada \"King\""]).hex()},
    }


# --- Defects ---------------------------------------------------------------------------------------------------------


def defects():
    """(name, what is wrong, deks to open with, context to open with, envelope, the check that refuses)"""
    context, text = base_context(), canonical({"/email": "ada@example.org", "/name": "Ada"})
    dek, other = dek_of(context.owners[0]), fixed("another dek")
    salt, nonce = fixed("salt of one owner"), fixed("nonce of one owner", 12)
    good = seal(dek, context, salt, text, nonce)
    clear = inner(salt, text)

    def patched(at, new):
        return good[:at] + new + good[at + len(new) :]

    def sealed(clear_):
        return seal_inner(dek, context, clear_, nonce)

    def resealed(at, new):
        """A sealer with another idea of the header: the tag is right for the header that is there."""
        header = good[:at] + new + good[at + len(new) : 56]
        return header + AESGCM(context.content_key(dek)).encrypt(nonce, clear, context.aad(header))

    yield "empty", "no bytes at all", [dek], context, b"", "header"
    yield "short_header", "ends within the header", [dek], context, good[:55], "header"
    yield "wrong_magic", "begins with OUB2", [dek], context, resealed(3, b"2"), "header"
    yield "unknown_suite", "suite 2", [dek], context, resealed(4, b"\2"), "header"
    yield "suite_zero", "suite 0", [dek], context, resealed(4, b"\0"), "header"
    yield "flag_cleared", "not bucketed", [dek], context, resealed(5, b"\0"), "header"
    yield "flag_unknown", "an unknown flag beside the known one", [dek], context, resealed(5, b"\3"), "header"
    yield "reserved_first", "first reserved byte is not zero", [dek], context, resealed(6, b"\1"), "header"
    yield "reserved_second", "second reserved byte is not zero", [dek], context, resealed(7, b"\x80"), "header"
    yield "header_only", "no ciphertext", [dek], context, good[:56], "length"
    yield "length_zero", "a ciphertext of no bytes, only a tag", [dek], context, sealed(b""), "length"
    yield "length_beyond", "says one bucket more than there is", [dek], context, patched(52, u32(256)), "length"
    yield "length_huge", "says 4 GiB", [dek], context, patched(52, u32(0xFFFFFC00)), "length"
    yield "length_no_bucket", "16 bytes more than a bucket", [dek], context, sealed(inner(salt, text, 144)), "length"
    yield "truncated_tag", "the last byte is missing", [dek], context, good[:-1], "length"
    yield "trailing_byte", "one byte too many", [dek], context, good + b"\0", "length"
    yield "trailing_envelope", "two envelopes one after another", [dek], context, good + good, "length"
    yield "wrong_kid", "right key, but the key id of another", [dek], context, seal_inner(
        dek, context, clear, nonce, key_id(other)), "commitment"
    yield "wrong_key", "sealed under another key", [dek], context, seal(other, context, salt, text, nonce), "commitment"
    yield "stolen_kid", "another key under our key id", [dek], context, seal_inner(
        other, context, clear, nonce, key_id(dek)), "tag"
    yield "flipped_tag", "one bit of the tag", [dek], context, good[:-1] + bytes([good[-1] ^ 1]), "tag"
    yield "flipped_nonce", "one bit of the nonce", [dek], context, patched(40, bytes([good[40] ^ 1])), "tag"
    yield "flipped_ciphertext", "one bit of the salt", [dek], context, patched(56, bytes([good[56] ^ 1])), "tag"
    yield "padding_not_zero", "the last byte of padding is 1", [dek], context, sealed(clear[:-1] + b"\1"), "padding"
    yield "padding_too_long", "a larger bucket than needed", [dek], context, sealed(inner(salt, text, 256)), "padding"
    yield "json_length_short", "one byte of JSON is left outside", [dek], context, sealed(
        clear[:32] + u32(len(text) - 1) + clear[36:]), "padding"
    yield "json_length_beyond", "JSON ends after the clear text", [dek], context, sealed(
        clear[:32] + u32(93) + clear[36:]), "padding"
    yield "json_length_huge", "JSON of 4 GiB", [dek], context, sealed(
        clear[:32] + b"\xff" * 4 + clear[36:]), "padding"
    swaps = {
        "store": fixed("other store", 16), "event": fixed("other event", 16), "type": "contact-changed", "schema": 4,
        "owners": (fixed("other subject", 16),), "purpose": "marketin", "slot": 1, "pointers": ("/email",),
    }
    for field, value in swaps.items():
        yield f"other_{field}", f"sealed for another {field}", [dek], replace(context, **{field: value}), good, "tag"
    yield "shifted_names", "a byte moved from the purpose to the type", [dek], replace(
        context, type="contact-createdm", purpose="arketing"), good, "tag"
    pair = base_context(2)
    deks = [dek_of(owner) for owner in pair.owners]
    joint = seal(slot_key(deks), pair, salt, text, nonce)
    yield "joint_keys_swapped", "joint key in the wrong order", deks[::-1], pair, joint, "commitment"
    yield "joint_one_key", "one owner's key for a joint slot", deks[:1], pair, joint, "commitment"
    yield "joint_owners_swapped", "owners in the wrong order", deks, replace(
        pair, owners=pair.owners[::-1]), joint, "tag"
    yield "joint_owner_missing", "a joint slot said to have one owner", deks, replace(
        pair, owners=pair.owners[:1]), joint, "tag"


def blob_defects():
    context, text = base_context(), b"{}"
    good = seal(dek_of(context.owners[0]), context, fixed("salt"), text, fixed("nonce", 12))
    yield "blob_short_length", "ends within a length", blob_of([good]) + b"\0\0\0"
    yield "blob_length_beyond", "an envelope that is cut off", blob_of([good])[:-1]
    yield "blob_length_short", "a length that cuts the envelope", u32(len(good) - 1) + good[:-1]
    yield "blob_length_long", "a length that takes in one byte more", u32(len(good) + 1) + good + b"\0"
    yield "blob_two_in_one", "two envelopes under one length", u32(2 * len(good)) + good + good
    yield "blob_not_an_envelope", "a length before other bytes", u32(3) + b"abc"
    yield "blob_without_length", "an envelope without its length", good


def generate():
    out = HERE / "vectors.json"
    out.write_text(json.dumps(vectors(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    for name, about, deks, context, envelope, check in defects():
        try:
            unseal(slot_key(deks), context, envelope)
        except Refused as refused:
            assert str(refused) == check, f"{name}: refused by {refused}"
        else:
            raise AssertionError(f"{name} opens")
        write_defect(name, {"defect": about, "refused_by": check, "deks": [dek.hex() for dek in deks],
                            **context.to_json(), "envelope": envelope.hex()})
    for name, about, blob in blob_defects():
        write_defect(name, {"defect": about, "blob": blob.hex()})


def write_defect(name, content):
    path = HERE / "defects" / f"{name}.json"
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


# --- Check what the product made -------------------------------------------------------------------------------------


def check(path):
    made = json.loads(Path(path).read_text(encoding="utf-8"))
    for number, o in enumerate(made["slots"]):
        context, deks = Context.from_json(o), [bytes.fromhex(dek) for dek in o["deks"]]
        salt, text = unseal(slot_key(deks), context, bytes.fromhex(o["envelope"]))
        if (salt.hex(), text.decode()) != (o["salt"], o["json"]):
            raise Refused(f"slot {number}: opens to something else")
        if commit(salt, text).hex() != o["commitment"]:
            raise Refused(f"slot {number}: commitment")
    if blob_of(bytes.fromhex(o["envelope"]) for o in made["slots"]).hex() != made["blob"]:
        raise Refused("blob")
    for o in made["checkpoints"]:
        said = check_checkpoint(o["note"], o["vkey"])
        if said != (o["origin"], o["size"], bytes.fromhex(o["root"])):
            raise Refused("checkpoint: says something else")
    print(f"opened {len(made['slots'])} envelopes and {len(made['checkpoints'])} checkpoints")


def main(arguments):
    match arguments:
        case ["generate"]:
            generate()
        case ["check", path]:
            check(path)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
