"""What "kerbwatch - models" shows: which weights answer, how a new model comes into service, and what the worker carries.

It decides what of a model's life is worth a look, in the order in which a person asks: what serves, what is coming, is it as good,
does the worker keep up. It asks by the definitions of `infra.metrics`, never by a name written out here; `build.py` makes JSON.
What exists only while a rollout is under way says in its description when it is empty, and names that in place of a curve.

Source: paper sections 4.6 (staged deployment, safe-mode models) and 4.7 (what is monitored).
"""

from dashboards.panels import Board, Look, Mark, Panel, Query, Row
from dashboards.promql import Metric, increase, mean, now, quantile, rate, series
from dashboards.watch import INCIDENTS, MARK_WINDOW, SWITCHES, WEIGHTS
from infra import metrics as m
from infra.metrics import Service, Side
from streams.events import Mode
from streams.topics import FRAMES

_NO_ROLLOUT = "no rollout under way"
_NOT_COMPARED = "no candidate is compared"
_NOT_RETRAINED = "no retraining run"
_NOTHING_YET = "no rollout yet"
_ONLY_COMPARED = "Empty while no candidate judges beside the serving model, which is the calm state."
_WHOLE_STEP = "The responder decides by the whole step so far, the curve shows the last minutes."

_IN_SAFE_MODE = f"sum({now(m.SERVING, *WEIGHTS, how='max', mode=Mode.SAFE)})"
_SERVED_AT_ALL = f"sum({now(m.SERVING, *WEIGHTS, how='max')})"
_COMPARED = rate(m.AGREEMENT, "context", suffix="_count")
_SERVING_PEOPLE = f"{rate(m.COMPARED_PEOPLE, 'context', model=Side.SERVING)} / {_COMPARED}"
_SERVING_TIME = mean(m.COMPARED_TIME, "context", model=Side.SERVING)


def _held_to(figure: str) -> str:
    return now(m.ROLLOUT_LIMIT, "context", how="max", figure=figure)


def _share_of_judged(metric: Metric) -> str:
    return f"{rate(metric, 'context')} / {rate(m.FRAMES_JUDGED, 'context')}"


GLANCE = Row(
    "At a glance",
    (
        Panel(
            "Contexts in safe mode",
            "Contexts that a worker serves with the safe-mode model. 0 is calm; no number means that no worker serves at all.",
            "short",
            (Query(f"{_IN_SAFE_MODE} or 0 * {_SERVED_AT_ALL}", "in safe mode"),),
            Look.NUMBER,
            4,
            1,
            empty="no worker serves",
        ),
        Panel(
            "Model faults",
            "Models that did not load or failed at work, and orders that a worker could not obey. The model in service goes on "
            "answering; `kerbwatch models verify` finds changed files, the worker's log says the rest.",
            "short",
            (Query(now(m.MODEL_FAULTS), "faults"),),
            Look.NUMBER,
            4,
            1,
            empty="no worker reports",
        ),
        Panel(
            "Rollouts under way",
            "New models between the request for a retraining and full service; at most one a context. "
            "`kerbwatch rollouts list` names them. Empty in calm.",
            "short",
            (Query(f"count({now(m.ROLLOUT_SHARE, 'context', how='max')})", "under way"),),
            Look.NUMBER,
            4,
            empty=_NO_ROLLOUT,
        ),
        Panel(
            "Retraining: time to go",
            "By the run's own estimate, the longest if there are several. Empty in calm and once the candidate is made.",
            "s",
            (Query(f"max({now(m.RETRAINING_LEFT, 'context', how='max')})", "to go"),),
            Look.NUMBER,
            4,
            empty=_NOT_RETRAINED,
        ),
        Panel(
            "Served by a candidate",
            "Share of a context's cameras that the candidate answers for, the highest of all contexts: 0 until it is a canary. "
            "Empty in calm.",
            "percentunit",
            (Query(f"max({now(m.ROLLOUT_SHARE, 'context', how='max')})", "share"),),
            Look.NUMBER,
            4,
            empty=_NO_ROLLOUT,
        ),
        Panel(
            "Proof gathered",
            "Live frames that speak of the candidate, as a share of what this step asks for; at 100 % the step is decided. "
            "The lowest of all contexts. Empty in calm.",
            "percentunit",
            (
                Query(
                    f"min({now(m.ROLLOUT_FRAMES, 'context', how='max')} / {now(m.ROLLOUT_WANTED, 'context', how='max')})",
                    "gathered",
                ),
            ),
            Look.NUMBER,
            4,
            empty=_NOT_COMPARED,
        ),
    ),
)

ANSWERS = Row(
    "Which model answers",
    (
        Panel(
            "Weights that serve",
            "Which model each context is judged with: its mode and the first characters of its digest. `kerbwatch models list` "
            "has the whole digests. `safe` means that the responder put the safe-mode model in.",
            "short",
            (Query(now(m.SERVING, *WEIGHTS, how="max"), "{{context}}: {{mode}} {{digest}}"),),
            Look.STATES,
        ),
        Panel(
            "Frames by mode",
            "Frames per second that were judged in each mode. In calm all of them are in normal mode.",
            "suffix: frames/s",
            (Query(rate(m.FRAMES_JUDGED, "context", "mode"), "{{context}}: {{mode}}"),),
            Look.STACK,
        ),
    ),
)

ROLLOUT = Row(
    "A new model on its way",
    (
        Panel(
            "Step of the rollout",
            "Where each context's newest rollout is, and its candidate's digest once there is one: requested, training, gating, "
            "awaiting_approval (by two people), shadow, canary, full, done; or rejected (by the gate or a person), failed, "
            "returned, cancelled. The last state stays until the next rollout. Empty before the first one.",
            "short",
            (Query(now(m.ROLLOUT, "context", "state", "digest", how="max"), "{{context}}: {{state}} {{digest}}"),),
            Look.STATES,
            empty=_NOTHING_YET,
        ),
        Panel(
            "Cameras served by the candidate",
            "Share of the context's cameras: 0 until it is a canary, 1 once it is the normal model and may still be returned. "
            "In safe mode the safe model answers instead. Empty while no rollout is under way, which is the calm state.",
            "percentunit",
            (Query(now(m.ROLLOUT_SHARE, "context", how="max"), "{{context}}"),),
            columns=6,
            empty=_NO_ROLLOUT,
        ),
        Panel(
            "Gate verdicts",
            "What the gate said of rollouts' candidates. A run of `kerbwatch gate` by hand is not counted: "
            "`kerbwatch models show` has all verdicts. Flat at zero in calm.",
            "short",
            (Query(increase(m.GATE_VERDICTS, "verdict"), "{{verdict}}"),),
            Look.BARS,
            6,
        ),
    ),
)

COMPARISON = Row(
    "Candidate against serving model, on frames that both judged",
    (
        Panel(
            "Agreement",
            f"How far both models find the same people (F1 of their boxes), on average. Below the limit the candidate goes back. "
            f"{_WHOLE_STEP} {_ONLY_COMPARED}",
            "percentunit",
            (
                Query(mean(m.AGREEMENT, "context"), "{{context}}"),
                Query(_held_to("agreement"), "{{context}}: least allowed"),
            ),
            columns=8,
            empty=_NOT_COMPARED,
        ),
        Panel(
            "People per frame",
            f"How many people each model finds, and between which numbers the candidate must stay. {_WHOLE_STEP} {_ONLY_COMPARED}",
            "short",
            (
                Query(
                    f"{rate(m.COMPARED_PEOPLE, 'context', 'model')} / on (context) group_left {_COMPARED}", "{{context}}: {{model}}"
                ),
                Query(f"{_SERVING_PEOPLE} * on (context) {_held_to('people')}", "{{context}}: most allowed"),
                Query(f"{_SERVING_PEOPLE} / on (context) {_held_to('people')}", "{{context}}: least allowed"),
            ),
            columns=8,
            empty=_NOT_COMPARED,
        ),
        Panel(
            "Score",
            "How sure each model is of the people that it found, on average over frames with people. Nothing is decided by it: a "
            f"candidate that is less sure has a threshold of its own. {_ONLY_COMPARED}",
            "percentunit",
            (Query(mean(m.COMPARED_SCORE, "context", "model"), "{{context}}: {{model}}"),),
            columns=8,
            empty=_NOT_COMPARED,
        ),
        Panel(
            "Time per frame",
            "How long each model takes for a frame, on average, and the most that the candidate may. "
            f"{_WHOLE_STEP} {_ONLY_COMPARED}",
            "s",
            (
                Query(mean(m.COMPARED_TIME, "context", "model"), "{{context}}: {{model}}"),
                Query(f"{_SERVING_TIME} * on (context) {_held_to('latency')}", "{{context}}: most allowed"),
            ),
            columns=8,
            empty=_NOT_COMPARED,
        ),
        Panel(
            "Frames compared",
            f"Frames per second that both models judged: one in a few, by the setting KERBWATCH_COMPARE_EVERY. {_ONLY_COMPARED}",
            "suffix: frames/s",
            (Query(_COMPARED, "{{context}}"),),
            columns=8,
            empty=_NOT_COMPARED,
        ),
        Panel(
            "Proof gathered",
            "Live frames that speak of the candidate in this step, and how many the step asks for: frames compared in shadow, "
            f"frames served as a canary. None count before every worker reports the step. {_ONLY_COMPARED}",
            "short",
            (
                Query(now(m.ROLLOUT_FRAMES, "context", how="max"), "{{context}}: gathered"),
                Query(now(m.ROLLOUT_WANTED, "context", how="max"), "{{context}}: asked for"),
            ),
            columns=8,
            empty=_NOT_COMPARED,
        ),
    ),
)

LOAD = Row(
    "The worker's load",
    (
        Panel(
            "Frames judged",
            "Frames per second, by context.",
            "suffix: frames/s",
            (Query(rate(m.FRAMES_JUDGED, "context"), "{{context}}"),),
            columns=8,
        ),
        Panel(
            "Frames not judged, by reason",
            "Frames that were refused or left out; `overload` are those that waited too long. Each has a dead letter: "
            "`kerbwatch dlq list`. Flat at zero in calm.",
            "short",
            (Query(increase(m.DEAD_LETTERS, "reason", topic=FRAMES.name), "{{reason}}"),),
            Look.BARS,
            8,
        ),
        Panel(
            "Frames waiting",
            "Frames that arrived and are not judged yet. Above the line the worker does not keep up: add one, or send less.",
            "short",
            (Query(now(m.LAG, how="max", service=Service.INFER, topic=FRAMES.name), "waiting"),),
            columns=8,
            threshold=100,
        ),
        Panel(
            "Batch",
            "Frames per forward pass: one while they come slowly, more under backlog, never more than KERBWATCH_WORKER_BATCH.",
            "suffix: frames",
            (Query(mean(m.BATCH), "on average"), Query(quantile(0.95, m.BATCH), "p95")),
            columns=8,
        ),
        Panel(
            "Second looks",
            "Share of the frames that were scored for adversarial input: few in calm (KERBWATCH_SCORE_EVERY), more of a new "
            "camera, all while something looks strange. Each costs about as much as judging the frame.",
            "percentunit",
            (Query(_share_of_judged(m.SCORED), "{{context}}"),),
            columns=8,
        ),
        Panel(
            "Cleaning",
            "Share of the frames that were cleaned before the model saw them: by default all in safe mode and none else, so that "
            "it is flat at zero in calm.",
            "percentunit",
            (Query(_share_of_judged(m.CLEANED), "{{context}}"),),
            columns=8,
        ),
        Panel(
            "Camera to judgement",
            "From the camera's clock to the worker's answer: half of all frames (p50) and nineteen of twenty (p95) are judged "
            "within these times.",
            "s",
            (
                Query(quantile(0.5, m.FRAME_LATENCY, "context"), "{{context}}: p50"),
                Query(quantile(0.95, m.FRAME_LATENCY, "context"), "{{context}}: p95"),
            ),
            columns=8,
            threshold=0.5,
        ),
        Panel(
            "Time per frame in the worker, p95",
            "Nineteen of twenty frames are decoded, judged (cleaning included) and scored within these times; most frames are not "
            "scored and count there with next to nothing.",
            "s",
            (Query(quantile(0.95, m.STAGE, "stage"), "{{stage}}"),),
            columns=8,
        ),
        Panel(
            "Model faults",
            "By worker: models that did not load or failed at work, and orders not obeyed. Zero in calm.",
            "short",
            (Query(now(m.MODEL_FAULTS, "worker", how="max"), "{{worker}}"),),
            columns=8,
            threshold=1,
            empty="no worker reports",
        ),
    ),
)

_RECENT_STEPS = f"count by (context, state) (count_over_time({series(m.ROLLOUT, '', ('context', 'state'))}[{MARK_WINDOW}]))"

BOARD = Board(
    "models",
    "kerbwatch - models",
    "A model's life in service: which weights answer, how a new one comes in or goes back, and what the worker carries.",
    (GLANCE, ANSWERS, ROLLOUT, COMPARISON, LOAD),
    (
        INCIDENTS,
        SWITCHES,
        Mark(
            # Two states of one context within the window: the one that it is in now came after the other.
            "Rollouts",
            f"{now(m.ROLLOUT, 'context', 'state', how='max')} and on (context) (count by (context) ({_RECENT_STEPS}) > 1)",
            "{{context}}: the new model is now {{state}}",
            "green",
        ),
        Mark("Model faults", f"{now(m.MODEL_FAULTS, 'worker', how='max')} > 0", "{{worker}}: a model does not work", "purple"),
    ),
)
