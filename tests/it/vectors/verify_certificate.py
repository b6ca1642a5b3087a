#!/usr/bin/env python3
"""The second verifier of erasure certificates, written from docs/formats.md.

    verify_certificate.py FILE --keys FILE    exit code 0 when the certificate holds, 7 when it does not
    verify_certificate.py --many FILE         FILE: {"key": vkey, "certificates": [text, ...]}; prints a list of true and false

Needs the package `cryptography`, neither a server nor a network.
"""

import base64
import binascii
import hashlib
import hmac
import json
import re
import struct
import sys
from datetime import datetime, timezone

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

MOST_BYTES = 4 << 20
MOST_NOTE = 16 * 1024
MOST_SIGNATURES = 32
RESIDUALS = {
    "ciphertext", "keystore-backups", "copies-handed-out", "unmarked-data", "medium", "wash-incomplete", "other-purposes",
}


class Refused(Exception):
    """The certificate does not hold; the message says why."""


def need(condition, why):
    if not condition:
        raise Refused(why)


# --- Conventions -----------------------------------------------------------------------------------------------------


def tuple_of(*items):
    return b"".join(struct.pack(">I", len(item)) + item for item in items)


def label(name):
    return b"oubliette/v1/" + name.encode()


def canonical(value):
    if isinstance(value, dict):
        members = sorted(value.items(), key=lambda member: member[0].encode("utf-16-be"))
        return "{" + ",".join(canonical(key) + ":" + canonical(inner) for key, inner in members) + "}"
    if isinstance(value, list):
        return "[" + ",".join(canonical(inner) for inner in value) + "]"
    return json.dumps(value, ensure_ascii=False)


def without_repetition(pairs):
    need(len({key for key, _ in pairs}) == len(pairs), "a member is repeated")
    return dict(pairs)


def no_fraction(_):
    raise Refused("a number with a fraction")


def parse(text):
    try:
        return json.loads(
            text, object_pairs_hook=without_repetition, parse_float=no_fraction, parse_constant=no_fraction)
    except (ValueError, RecursionError):
        raise Refused("not JSON") from None


def members(value, names):
    need(isinstance(value, dict) and set(value) == set(names.split()), f"members other than {names}")
    return value


def text_of(value):
    need(isinstance(value, str), "a member is no text")
    return value


def number_of(value, most=2**64 - 1):
    need(type(value) is int and 0 <= value <= most, "a member is no number")
    return value


def bits_of(value):
    need(type(value) is bool, "a member is neither true nor false")


def digits(value, length):
    need(re.fullmatch("[0-9a-f]{%d}" % (2 * length), text_of(value)) is not None, "hexadecimal digits")
    return bytes.fromhex(value)


def from_base64(text):
    try:
        decoded = base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        raise Refused("not base64") from None
    need(base64.b64encode(decoded).decode() == text, "base64 with loose ends")
    return decoded


def hash_of(text):
    decoded = from_base64(text)
    need(len(decoded) == 32, "a hash has 32 bytes")
    return decoded


def decimal(text):
    need(re.fullmatch("0|[1-9][0-9]{0,19}", text) is not None and int(text) < 2**64, "a decimal number")
    return int(text)


def milliseconds(text):
    need(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", text_of(text), re.ASCII) is not None, "a time")
    try:
        moment = datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=timezone.utc)
    except ValueError:
        raise Refused("a time") from None
    since = moment - datetime(1970, 1, 1, tzinfo=timezone.utc)
    return (since.days * 86400 + since.seconds) * 1000 + since.microseconds // 1000


# --- Keys, checkpoints, proofs ---------------------------------------------------------------------------------------


def is_name(name):
    plain = all(not c.isspace() and ord(c) >= 32 and not 127 <= ord(c) < 160 and c != "+" for c in name)
    return 1 <= len(name.encode()) <= 255 and plain


class Key:
    def __init__(self, vkey):
        parts = vkey.split("+", 2)
        need(len(parts) == 3 and is_name(parts[0]), "not a verifier key")
        public = from_base64(parts[2])
        need(len(public) == 33 and public[0] == 1, "not an Ed25519 key")
        self.name = parts[0]
        self.id = hashlib.sha256(self.name.encode() + b"\n" + public).digest()[:4]
        need(parts[1] == self.id.hex(), "the key's id is not that of the key")
        self.key = Ed25519PublicKey.from_public_bytes(public[1:])

    def check(self, signature, message):
        try:
            self.key.verify(signature, message)
        except InvalidSignature:
            raise Refused("the signature does not hold") from None


def checkpoint(note, key):
    """Size and root of the tree."""
    need(len(note.encode()) <= MOST_NOTE and all(c == "\n" or ord(c) >= 32 for c in note), "not a note")
    need("\n\n" in note and note.endswith("\n"), "not a note")
    at = note.rindex("\n\n")
    body, lines = note[: at + 1], note[at + 2 : -1].split("\n")
    need(len(lines) <= MOST_SIGNATURES, "too many signatures")
    ours = []
    for line in lines:
        parts = line.removeprefix("\u2014 ").split(" ")
        need(line.startswith("\u2014 ") and len(parts) == 2 and is_name(parts[0]), "not a signature line")
        blob = from_base64(parts[1])
        need(len(blob) > 4, "not a signature line")
        if parts[0] == key.name and blob[:4] == key.id:
            ours.append(blob[4:])
    need(len(ours) == 1, "not exactly one signature of the log")
    key.check(ours[0], body.encode())
    parts = body[:-1].split("\n")
    need(len(parts) == 3 and parts[0] == key.name, "not a checkpoint of the log")
    return decimal(parts[1]), hash_of(parts[2])


def node(left, right):
    return hashlib.sha256(b"\x01" + left + right).digest()


def inclusion(leaf, index, size, path, root):
    """RFC 9162, section 2.1.3.2."""
    need(index < size, "the leaf is beyond the tree")
    first, last, result = index, size - 1, leaf
    for sibling in path:
        need(last > 0, "too many hashes")
        if first & 1 or first == last:
            result = node(sibling, result)
            while not first & 1 and first:
                first, last = first >> 1, last >> 1
        else:
            result = node(result, sibling)
        first, last = first >> 1, last >> 1
    need(last == 0, "too few hashes")
    need(result == root, "the hashes lead to another root")


def proven_index(proof, leaf, key):
    need("\n\n" in proof, "not a proof")
    head, note = proof.split("\n\n", 1)
    lines = head.split("\n")
    need(len(lines) >= 2 and lines[0] == "c2sp.org/tlog-proof@v1" and lines[1].startswith("index "), "not a proof")
    index, path = decimal(lines[1].removeprefix("index ")), [hash_of(line) for line in lines[2:]]
    need(len(path) <= 64, "too many hashes")
    size, root = checkpoint(note, key)
    inclusion(leaf, index, size, path, root)
    return index


# --- Certificates ----------------------------------------------------------------------------------------------------


def check_statement(statement):
    members(statement, "request erasure subject_commitment purposes basis received_at due_at fenced_at keys "
            "external_id_removed nodes verification backups_effective_due residuals software")
    for name in ("request", "subject_commitment", "basis", "received_at", "due_at", "fenced_at", "backups_effective_due"):
        text_of(statement[name])
    number_of(statement["erasure"])
    bits_of(statement["external_id_removed"])
    for name in ("keys", "nodes", "residuals"):
        need(isinstance(statement[name], list), "a member is no list")
    if statement["purposes"] is not None:
        need(isinstance(statement["purposes"], list), "a member is no list")
        for purpose in statement["purposes"]:
            text_of(purpose)
    for key in statement["keys"]:
        members(key, "kid purpose generation destroyed_at")
        number_of(key["generation"], 2**32 - 1)
        for name in ("kid", "purpose", "destroyed_at"):
            text_of(key[name])
    for other in statement["nodes"]:
        members(other, "node how")
        text_of(other["node"])
        need(other["how"] in ("acknowledged", "lease-expired"), "an unknown way to let go")
    for residual in statement["residuals"]:
        need(isinstance(residual, str) and residual in RESIDUALS, "an unknown residual")
    for name in ("events", "tried", "opened"):
        number_of(members(statement["verification"], "events tried opened")[name])
    for name in ("name", "version"):
        text_of(members(statement["software"], "name version")[name])
    need(statement["verification"]["opened"] == 0, "something still opened")


def leaf_of(entry, public):
    members(entry, "store position event stream revision completed_at meta_commitment public_salt")
    commitment = hmac.new(digits(entry["public_salt"], 32), tuple_of(label("commit"), public), "sha256").digest()
    return hashlib.sha256(b"\x00" + tuple_of(
        label("leaf"),
        digits(entry["store"], 16),
        struct.pack(">Q", number_of(entry["position"])),
        digits(entry["event"], 16),
        digits(entry["stream"], 16),
        struct.pack(">Q", number_of(entry["revision"])),
        b"erasure-completed",
        struct.pack(">q", milliseconds(entry["completed_at"])),
        digits(entry["meta_commitment"], 32),
        commitment,
    )).digest()


def verify(text, vkey):
    text = text.removesuffix("\n")
    need(len(text.encode()) <= MOST_BYTES, "too long")
    certificate = members(parse(text), "format statement entry proof signature")
    need(canonical(certificate) == text, "not the form of RFC 8785")
    need(certificate["format"] == "oubliette/certificate/v1", "another format")
    key = Key(vkey)
    signature = from_base64(text_of(certificate.pop("signature")))
    need(len(signature) == 64, "a signature has 64 bytes")
    key.check(signature, tuple_of(label("certificate"), canonical(certificate).encode()))
    statement = certificate["statement"]
    check_statement(statement)
    public = {"fact": "erasure-completed", "statement": statement, "verification": statement["verification"]}
    leaf = leaf_of(certificate["entry"], canonical(public).encode())
    index = proven_index(text_of(certificate["proof"]), leaf, key)
    need(index == certificate["entry"]["position"], "the proof is of another position")
    return statement


def holds(text, vkey):
    try:
        verify(text, vkey)
    except (Refused, RecursionError):
        return False
    return True


def main(arguments):
    if len(arguments) == 2 and arguments[0] == "--many":
        with open(arguments[1], encoding="utf-8") as file:
            given = json.load(file)
        print(json.dumps([holds(text, given["key"]) for text in given["certificates"]]))
        return 0
    if len(arguments) != 3 or arguments[1] != "--keys":
        print(__doc__, file=sys.stderr)
        return 2
    try:
        with open(arguments[0], encoding="utf-8", newline="") as file:
            text = file.read()
        with open(arguments[2], encoding="utf-8") as file:
            keys = file.read().split()
        need(keys, "no verifier key")
        good = [key for key in keys if holds(text, key)]
        statement = verify(text, (good or keys)[0])
    except (Refused, RecursionError, UnicodeDecodeError) as refused:
        print(f"REFUSED: {refused}")
        return 7
    print(f"OK: {len(statement['keys'])} keys destroyed, {statement['verification']['tried']} slots tried, 0 opened")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
