"""JSON-RPC in both versions, as xapi writes it."""

import msgspec
import pytest

from xenith.xapi import XapiFault
from xenith.xapi.jsonrpc import (
    decode_answer,
    decode_call,
    encode_call,
    encode_fault,
    encode_result,
)

FAULT = XapiFault("UUID_INVALID", "VM", "x")


def test_a_call_reads_as_it_was_written():
    envelope = decode_call(encode_call("VM.start", ["OpaqueRef:s", True, 2**53 + 1], 7))
    assert (envelope.method, envelope.id, envelope.jsonrpc) == ("VM.start", 7, "2.0")
    assert envelope.params == ["OpaqueRef:s", True, 2**53 + 1]


@pytest.mark.parametrize("version", ["2.0", ""])
def test_results_and_faults_read_as_they_were_written(version):
    envelope = decode_call(msgspec.json.encode({"jsonrpc": version, **CALL}))
    assert decode_answer(encode_result(envelope, {"domid": -1})) == {"domid": -1}
    with pytest.raises(XapiFault) as caught:
        decode_answer(encode_fault(envelope, FAULT))
    assert caught.value.description == ["UUID_INVALID", "VM", "x"]


CALL = {"method": "m", "params": [], "id": "a"}


def test_version_2_writes_the_code_as_the_message():
    envelope = decode_call(msgspec.json.encode({"jsonrpc": "2.0", **CALL}))
    assert msgspec.json.decode(encode_fault(envelope, FAULT)) == {
        "jsonrpc": "2.0",
        "error": {"code": 1, "message": "UUID_INVALID", "data": ["VM", "x"]},
        "id": "a",
    }


def test_version_1_writes_the_fault_as_a_list_and_no_version():
    envelope = decode_call(msgspec.json.encode(CALL))
    assert msgspec.json.decode(encode_fault(envelope, FAULT)) == {
        "result": None,
        "error": ["UUID_INVALID", "VM", "x"],
        "id": "a",
    }
    assert msgspec.json.decode(encode_result(envelope, "")) == {
        "result": "",
        "error": None,
        "id": "a",
    }


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'{"method":"m","params":[]}',
        b'{"method":"m","params":[],"id":null}',
        b'{"method":"m","id":1}',
        b'{"method":"m","params":{},"id":1}',
        b'{"method":1,"params":[],"id":1}',
        b'[{"method":"m","params":[],"id":1}]',
        b'{"method":"\xff","params":[],"id":1}',
        b'{"method":"m","params":' + b"[" * 9999 + b"]" * 9999 + b',"id":1}',
    ],
    ids=range(11),
)
def test_what_is_no_call_is_refused(body):
    with pytest.raises(msgspec.DecodeError):
        decode_call(body)


@pytest.mark.parametrize("body", [b"", b"[]", b'{"error": 5}', b'{"error": {"data": []}}'])
def test_what_is_no_answer_is_refused(body):
    with pytest.raises(msgspec.DecodeError):
        decode_answer(body)
