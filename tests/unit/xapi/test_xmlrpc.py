"""XML-RPC as xapi writes it: integers as text, void as nothing, hostile texts as no call."""

import xmlrpc.client

import pytest

from xenith.xapi import XapiFault, jsonrpc
from xenith.xapi.xmlrpc import (
    Int32,
    decode_answer,
    decode_call,
    encode_call,
    encode_fault,
    encode_result,
    fragment,
)


def test_integers_travel_as_text_and_booleans_as_booleans():
    method, params = decode_call(
        encode_call("VDI.create", ["s", {"virtual_size": 2**40, "x": True}])
    )
    assert method == "VDI.create"
    assert params == ["s", {"virtual_size": "1099511627776", "x": True}]
    assert b"<int>" not in encode_result({"domid": -1})


def test_what_returns_nothing_answers_empty_text():
    assert decode_answer(encode_result(None)) == ""


def test_dates_of_other_servers_read_as_their_text():
    body = xmlrpc.client.dumps(
        ({"Status": "Success", "Value": xmlrpc.client.DateTime("20260101T00:00:00Z")},),
        methodresponse=True,
    )
    assert decode_answer(body.encode()) == "20260101T00:00:00Z"


def test_a_fault_reads_as_it_was_written():
    with pytest.raises(XapiFault) as caught:
        decode_answer(encode_fault(XapiFault("VM_BAD_POWER_STATE", "r", "halted", "running")))
    assert caught.value.description == ["VM_BAD_POWER_STATE", "r", "halted", "running"]


@pytest.mark.parametrize("text", ["\x00", "a\x0bb", "\ud800", "\uffff"])
def test_characters_that_xml_cannot_write_are_replaced(text):
    assert decode_answer(encode_result({"name_label": text}))["name_label"].count("\ufffd") == 1
    assert "\ufffd" in fragment(text)


@pytest.mark.parametrize("text", ["<b>&amp;</b>", "tab\tline\nend", "\U0001d4cdenith", "]]>"])
def test_all_other_text_arrives_as_it_was(text):
    assert decode_answer(encode_result(text)) == text


def test_a_task_s_result_is_the_xml_of_one_value():
    assert fragment("OpaqueRef:1") == "<value>OpaqueRef:1</value>"
    assert fragment("a<b") == "<value>a&lt;b</value>"
    assert fragment("") == ""


ENTITIES = (
    b'<?xml version="1.0"?><!DOCTYPE m [<!ENTITY a "xxxxxxxxxx">'
    + b"".join(
        b'<!ENTITY %s "%s">' % (bytes([98 + n]), b"&%s;" % bytes([97 + n]) * 10) for n in range(9)
    )
    + b"]><methodCall><methodName>m</methodName><params><param><value>&j;</value></param></params>"
    b"</methodCall>"
)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"<methodCall>",
        b"<methodResponse><params><param><value>1</value></param></params></methodResponse>",
        b"<methodCall><methodName>m</methodName><params><param><int>x</int></param></params>",
        b"<methodCall><methodName>m</methodName><params>"
        + b"<param><value><array><data>" * 5000
        + b"</data></array></value></param>" * 5000
        + b"</params></methodCall>",
        ENTITIES,
    ],
    ids=["empty", "json", "cut", "answer", "no int", "deep", "entities"],
)
def test_what_is_no_call_is_refused(body):
    with pytest.raises(ValueError, match="no XML-RPC call"):
        decode_call(body)


@pytest.mark.parametrize("body", [b"", b"<html>", b"<methodResponse></methodResponse>"])
def test_what_is_no_answer_is_refused(body):
    with pytest.raises(ValueError, match="no XML-RPC answer"):
        decode_answer(body)


def test_an_answer_has_the_form_of_xapi_s():
    body = encode_result({"a": ["<", "", 7, True, 0.5], "\n": "\n"}).decode()
    value = body.split("<name>Value</name>")[1].removesuffix(
        "</member></struct></value></param></params></methodResponse>"
    )
    assert value == (
        "<value><struct><member><name>a</name><value><array><data><value>&lt;</value>"
        "<value></value><value>7</value><value><boolean>1</boolean></value>"
        "<value><double>0.5</double></value></data></array></value></member>"
        "<member><name>\n</name><value>\n</value></member></struct></value>"
    )
    assert decode_answer(body.encode()) == {"a": ["<", "", "7", True, 0.5], "\n": "\n"}


def test_the_one_kind_of_number_that_xapi_writes_as_one_is_a_number_in_both_protocols():
    answer = decode_answer(encode_result({"vm": Int32(3)}))
    assert (answer, type(answer["vm"])) == ({"vm": 3}, int)
    envelope = jsonrpc.Envelope("event.from", [], 1, "2.0")
    assert b'"result":{"vm":3}' in jsonrpc.encode_result(envelope, {"vm": Int32(3)})
