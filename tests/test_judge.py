"""A judge of two answers: a server of OpenAI's kind on the loopback, and a local model against plain logits."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from tiny_lm import lines, prompt_ids

import alignkd_lab
from alignkd_lab.errors import BadInput, CannotContinue
from alignkd_lab.lm import judge, weights
from alignkd_lab.stats import wilson_interval

FIRST = [{"row": row, "prompt": f"Say {row}", "response": text} for row, text in enumerate(["a b c", "a", "a", "a b"])]
SECOND = [{**row, "response": "z y"} for row in FIRST]


def longer(question):
    one, other = (question.split(f"[Answer {letter}]\n")[1].split("\n\n")[0].split() for letter in "AB")
    return "A" if len(one) > len(other) else "B" if len(other) > len(one) else "C"


@pytest.fixture
def server(monkeypatch):
    """Its address; `reply` says what it answers, `asked` holds each request's model, key and question."""
    monkeypatch.setattr(judge, "TRIES", 1)

    class Stub(BaseHTTPRequestHandler):
        reply, asked, promised = staticmethod(longer), [], None  # how many bytes, where it is not what comes

        def do_GET(self):
            self.send({"data": [{"id": "first-model"}]})

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            question = body["messages"][0]["content"]
            type(self).asked.append((body["model"], self.headers.get("Authorization"), question))
            said = "A" if question.startswith("Reply") else type(self).reply(question)
            self.send({"choices": [{"message": {"content": said}}]})

        def send(self, held, code=200):
            self.send_response(code)
            if self.promised:
                self.send_header("Content-Length", self.promised)
            self.end_headers()
            self.wfile.write(json.dumps(held).encode())

        def log_message(self, *_):
            pass

    served = ThreadingHTTPServer(("127.0.0.1", 0), Stub)
    threading.Thread(target=served.serve_forever, daemon=True).start()
    Stub.address = f"http://127.0.0.1:{served.server_port}/v1"
    yield Stub
    served.shutdown()
    served.server_close()


def test_an_answer_wins_where_both_orders_say_so(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "k\n")
    found = judge.compare(f"{server.address}#mine", FIRST, SECOND, "cpu")
    assert found["win_rate"] == wilson_interval(1.5, 4)._asdict()  # a win, two losses, a tie
    assert (found["pairs"], found["ties"], found["swayed"], found["unread"]) == (4, 0.25, 0, 0)
    assert {ask[:2] for ask in server.asked} == {("mine", "Bearer k")}
    assert len(server.asked) == 8
    rows = [{**row, "row": row["row"] // 2} for row in FIRST]  # two responses to a prompt count as one
    found = judge.compare(server.address, rows, SECOND, "cpu")
    assert found["win_rate"] == wilson_interval(0.5 + 0.25, 2)._asdict()


def test_a_judge_who_prefers_a_place_decides_nothing_and_one_who_cannot_be_read_is_refused(server):
    server.reply = staticmethod(lambda question: "**A**")
    found = judge.compare(server.address, FIRST, SECOND, "cpu")
    assert (found["win_rate"]["estimate"], found["ties"], found["swayed"]) == (0.5, 1, 1)
    assert server.asked[-1][0] == "first-model"
    server.reply = staticmethod(lambda question: "As a language model I like both")
    with pytest.raises(CannotContinue, match="100 % of the pairs with none of A, B and C"):
        judge.compare(server.address, FIRST, SECOND, "cpu")


@pytest.mark.parametrize("half", [False, True], ids=["no reply", "half a reply"])
def test_what_was_judged_is_kept_where_the_server_fails_and_asked_once(half, server, tmp_path):
    def fails(question):
        if len(server.asked) > 5:
            if not half:
                raise ConnectionError
            server.promised = "999"
        return longer(question)

    server.reply, kept = staticmethod(fails), tmp_path / "verdicts.jsonl"
    with pytest.raises(CannotContinue, match="what was judged is kept"):
        judge.compare(server.address, FIRST, SECOND, "cpu", kept)
    kept.write_text(kept.read_text() + '["half a li')
    server.reply, server.promised, before = staticmethod(longer), None, len(server.asked)
    found = judge.compare(server.address, FIRST, SECOND, "cpu", kept)
    assert len(server.asked) - before == 8 - 5
    assert found["win_rate"]["estimate"] == 1.5 / 4
    assert judge.compare(server.address, FIRST, SECOND, "cpu", kept) == found
    assert len(server.asked) - before == 8 - 5


def test_another_model_behind_an_address_is_asked_anew_and_a_verdict_is_one_letter_alone(server, tmp_path):
    said = ["(A)", "**b**.", "[[C]]", "Both", "Answer A", [{"type": "text", "text": "A"}], "b", "c"]
    kept, replies = tmp_path / "verdicts.jsonl", iter(said)
    server.reply = staticmethod(lambda question: next(replies))
    assert judge.compare(server.address, FIRST, SECOND, "cpu", kept)["unread"] == 0.5
    assert [json.loads(line)[1] for line in kept.read_text().splitlines()] == ["A", "B", "C", "B", "C"]
    server.reply, before = staticmethod(longer), len(server.asked)
    judge.compare(server.address, FIRST, SECOND, "cpu", kept)
    assert len(server.asked) - before == 3  # what could not be read
    judge.compare(f"{server.address}#other", FIRST, SECOND, "cpu", kept)
    assert len(server.asked) - before == 3 + 8


def test_a_server_that_refuses_says_why_before_anything_is_sampled(server, tmp_path, monkeypatch):
    refused = {"error": "Incorrect API key"}
    monkeypatch.setattr(server, "do_POST", lambda stub: stub.send(refused, 401))
    prompts = lines(tmp_path / "prompts.jsonl", [{"prompt": "Say 1"}])
    asked = {"prompts": prompts, "against": "tiny-base", "judge": server.address, "out": tmp_path / "out"}
    with pytest.raises(CannotContinue, match=r"refuses \(401 Unauthorized\).*Incorrect API key.*OPENAI_API_KEY"):
        alignkd_lab.evaluate("tiny-student", **asked)
    assert not (tmp_path / "out" / "responses.jsonl").exists()
    monkeypatch.setattr(server, "do_POST", lambda stub: stub.send({"error": "overloaded"}))
    with pytest.raises(CannotContinue, match=r"overloaded.*, and no completion"):
        alignkd_lab.evaluate("tiny-student", **asked)


def test_what_was_measured_is_kept_where_the_judge_fails(tmp_path, monkeypatch):
    def fails(*given):
        raise CannotContinue("judge: gone")

    monkeypatch.setattr(judge, "compare", fails)
    prompts = lines(tmp_path / "prompts.jsonl", [{"prompt": "Say 1"}])
    asked = {"prompts": prompts, "against": "tiny-base", "judge": "tiny-base", "reward": "digit", "max_tokens": 4}
    with pytest.raises(CannotContinue, match="gone"):
        alignkd_lab.evaluate("tiny-student", out=tmp_path / "out", **asked)
    assert json.loads((tmp_path / "out" / "evaluation.json.part").read_text())["metrics"]["reward"]


def test_a_model_judges_by_the_letter_that_it_finds_likeliest():
    model, tokenizer = weights.load("tiny-base")
    letters = [tokenizer.encode(letter, add_special_tokens=False)[0] for letter in "ABC"]
    expected = []
    for one, other in zip(FIRST, SECOND, strict=True):
        for left, right in ((one, other), (other, one)):
            text = judge.TEMPLATE.format(prompt=one["prompt"], first=left["response"], second=right["response"])
            (ids,) = prompt_ids(tokenizer, [[{"role": "user", "content": text}]])
            with torch.no_grad():
                expected.append("ABC"[int(model(torch.tensor([ids])).logits[0, -1, letters].argmax())])
    found = judge.compare("tiny-base", FIRST, SECOND, "cpu")
    pairs = list(zip(expected[::2], expected[1::2], strict=True))
    wins = sum({("A", "B"): 1.0, ("B", "A"): 0.0}.get(pair, 0.5) for pair in pairs)
    assert found["win_rate"]["estimate"] == wins / 4
    assert found["swayed"] == sum(pair in (("A", "A"), ("B", "B")) for pair in pairs) / 4


def test_an_evaluation_asks_the_judge_last_and_tells_what_it_said(server, tmp_path):
    prompts = lines(tmp_path / "prompts.jsonl", [{"prompt": "Say 1"}, {"prompt": "Say 2"}])
    asked = {"prompts": prompts, "against": "tiny-base", "max_tokens": 4, "device": "cpu", "out": tmp_path / "out"}
    found = alignkd_lab.evaluate("tiny-student", judge=server.address, responses=2, **asked)
    assert (found["judge"]["pairs"], found["win_rate"]) == (4, None)
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text())["judge"] == found["judge"]
    written = [json.loads(line) for line in (tmp_path / "out" / "responses.jsonl").read_text().splitlines()]
    tried, first = (question for *_, question in server.asked[:2])
    assert tried == "Reply with the letter A alone."  # before anything is sampled
    assert f"[Answer A]\n{written[0]['response']}\n\n[Answer B]\n{written[4]['response']}\n\n" in first
    with pytest.raises(BadInput, match="judge: it compares two models"):
        alignkd_lab.evaluate("tiny-student", prompts=prompts, judge=server.address)
