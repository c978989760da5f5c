"""What "kerbwatch - watch" shows: rows of panels, each with its queries and plain words for whoever is on call.

It decides what is worth a look and asks for it by the definitions of `infra.metrics`, never by a name written out here. It
knows nothing of Grafana's format: `build.py` turns this into JSON.

Source: paper section 4.7 (what is monitored).
"""

from dashboards.panels import Board, Look, Mark, Panel, Query, Row
from dashboards.promql import increase, mean, now, quantile, rate, series
from infra import metrics as m
from infra.metrics import Outcome, Service
from infra.settings import Settings
from streams.events import Health, Kind, Phase
from streams.topics import FRAMES

MARK_WINDOW = "1m"
"""How long a mark for a sudden event lasts: longer than Grafana's steps at all but the widest time ranges."""


WEIGHTS = ("context", "mode", "digest")
FINDING = ("camera", "context", "detector")

GLANCE = Row(
    "At a glance",
    (
        Panel(
            "Frames judged",
            "Frames per second that the worker judged.",
            "suffix: frames/s",
            (Query(rate(m.FRAMES_JUDGED), "frames"),),
            Look.NUMBER,
            4,
        ),
        Panel(
            "Frames waiting",
            "Frames that arrived and are not judged yet. It should hover near zero; red means that the worker does not keep up.",
            "short",
            (Query(now(m.LAG, how="max", service=Service.INFER, topic=FRAMES.name), "waiting"),),
            Look.NUMBER,
            4,
            100,
        ),
        Panel(
            "Camera to verdict, p95",
            "Nineteen of twenty frames are judged and looked at by every detector within this time.",
            "s",
            (Query(quantile(0.95, m.WATCH_LATENCY), "p95"),),
            Look.NUMBER,
            4,
            0.5,
        ),
        Panel(
            "Open incidents",
            "Incidents that are not closed. `kerbwatch incidents list` names them.",
            "short",
            (Query(now(m.INCIDENTS_OPEN), "open"),),
            Look.NUMBER,
            4,
            1,
        ),
        Panel(
            "Effects pending",
            "Things decided but not yet done. More than a handful for a minute means that something is stuck.",
            "short",
            (Query(now(m.EFFECTS_PENDING), "pending"),),
            Look.NUMBER,
            4,
            10,
        ),
        Panel(
            "Workers that serve",
            "Inference workers whose last word was that they serve. Red means fewer than one: nothing is being judged.",
            "short",
            (Query(now(m.WORKER_HEALTH, health=Health.SERVING), "serving"),),
            Look.NUMBER,
            4,
            wanted=1,
        ),
    ),
)

FLOW = Row(
    "The way of the frames",
    (
        Panel(
            "Throughput",
            "Frames judged per second, by camera. A camera that falls to zero has stopped or is being refused.",
            "suffix: frames/s",
            (Query(rate(m.FRAMES_JUDGED, "camera", "context"), "{{camera}} ({{context}})"),),
        ),
        Panel(
            "Messages waiting",
            "What each topic's reader has still to read. A line that keeps rising is a reader that stalled or is too slow.",
            "short",
            (Query(now(m.LAG, "topic", "service", how="max"), "{{topic}} ({{service}})"),),
        ),
        Panel(
            "Latency",
            "From the camera's clock to the worker's judgement, and on to the last detector's verdict.",
            "s",
            (
                Query(quantile(0.5, m.FRAME_LATENCY), "judged, p50"),
                Query(quantile(0.95, m.FRAME_LATENCY), "judged, p95"),
                Query(quantile(0.5, m.WATCH_LATENCY), "verdict, p50"),
                Query(quantile(0.95, m.WATCH_LATENCY), "verdict, p95"),
            ),
            threshold=0.5,
        ),
        Panel(
            "Time per frame in the worker",
            "Average time spent on decoding, on the network, and on scoring the input for adversarial cues.",
            "s",
            (Query(mean(m.STAGE, "stage"), "{{stage}}"),),
            Look.STACK,
            8,
        ),
        Panel("Batch", "Frames per forward pass, on average.", "short", (Query(mean(m.BATCH), "frames"),), columns=4),
    ),
)

VIEW = Row(
    "What the model sees",
    (
        Panel(
            "People found",
            "People found per second, by context. A sudden drop while frames keep coming is what an evasion attack looks like.",
            "short",
            (Query(rate(m.PEOPLE, "context"), "{{context}}"),),
            columns=8,
        ),
        Panel(
            "People per frame",
            "The same, independent of how many frames come.",
            "short",
            (
                Query(
                    f"{rate(m.PEOPLE, 'camera', 'context')} / {rate(m.FRAMES_JUDGED, 'camera', 'context')}",
                    "{{camera}} ({{context}})",
                ),
            ),
            columns=8,
        ),
        Panel(
            "Weights that serve",
            "Which model each context is judged with: its mode and the first characters of its digest. `safe` means that the "
            "responder put the safe-mode model in.",
            "short",
            (Query(now(m.SERVING, *WEIGHTS, how="max"), "{{context}}: {{mode}} {{digest}}"),),
            Look.STATES,
            8,
        ),
    ),
)

EVIDENCE = Row(
    "Evidence",
    (
        Panel(
            "Drift: evidence",
            "What each drift detector has gathered, as a share of what it needs to raise an alarm. At the red line it alarms.",
            "percentunit",
            (Query(now(m.EVIDENCE, *FINDING, how="max", kind=Kind.DRIFT), "{{camera}} {{detector}}"),),
            threshold=1,
        ),
        Panel(
            "Adversarial input: evidence",
            "The same for detectors of manipulated pictures.",
            "percentunit",
            (Query(now(m.EVIDENCE, *FINDING, how="max", kind=Kind.EVASION), "{{camera}} {{detector}}"),),
            threshold=1,
        ),
        Panel(
            "Adversarial input: score",
            "How strange the last scored frame was by itself, in the detector's own unit; 0 is usual. "
            "One high frame is no alarm, a stretch is.",
            "short",
            (Query(now(m.SCORE, *FINDING, how="max", kind=Kind.EVASION), "{{camera}} {{detector}}"),),
        ),
        Panel(
            "Signals",
            "Findings sent to the responder, by kind and phase.",
            "short",
            (
                Query(increase(m.SIGNALS, "kind", phase=Phase.RAISED), "{{kind}} raised"),
                Query(increase(m.SIGNALS, phase=Phase.ONGOING), "ongoing"),
                Query(increase(m.SIGNALS, phase=Phase.CALM), "calm again"),
            ),
            Look.BARS,
        ),
    ),
)

RESPONSE = Row(
    "Response",
    (
        Panel(
            "Open incidents",
            "By kind and state.",
            "short",
            (Query(now(m.INCIDENTS_OPEN, "kind", "state"), "{{kind}}: {{state}}"),),
            Look.STACK,
            8,
        ),
        Panel(
            "Effects",
            "Attempts to carry out what was decided, and what is still waiting. Failures are tried again.",
            "short",
            (
                Query(increase(m.EFFECT_ATTEMPTS, "outcome"), "{{outcome}}"),
                Query(now(m.EFFECTS_PENDING), "pending"),
            ),
            columns=8,
        ),
        Panel(
            "For the record",
            "Frames set aside, encrypted, and entries written to the audit trail.",
            "short",
            (Query(increase(m.QUARANTINED), "frames quarantined"), Query(increase(m.AUDITED), "audit entries")),
            Look.BARS,
            8,
        ),
        Panel(
            "People told",
            "Attempts to tell people, by channel, and channels whose settings do not hold. Failures are tried again for a day; "
            "while they rise nobody may hear of an incident: `kerbwatch notify channels`.",
            "short",
            (
                Query(increase(m.NOTIFICATIONS, "channel", "outcome"), "{{channel}}: {{outcome}}"),
                Query(now(m.CHANNEL_FAULTS, "channel", how="max"), "{{channel}}: settings do not hold"),
            ),
            Look.BARS,
            24,
        ),
    ),
)

TROUBLE = Row(
    "Refusals and faults",
    (
        Panel(
            "Refused",
            "Messages that were not accepted, by reason. Anything here was sent broken or by someone who should not.",
            "short",
            (Query(increase(m.REFUSED, "reason"), "{{reason}}"),),
            Look.BARS,
            8,
        ),
        Panel(
            "Dead letters",
            "Messages put aside, by the topic they came from. `kerbwatch dlq list` shows them, "
            "`kerbwatch dlq replay` sends them again.",
            "short",
            (Query(increase(m.DEAD_LETTERS, "topic"), "{{topic}}"),),
            Look.BARS,
            8,
        ),
        Panel(
            "Agents",
            "Events handled per second, and faults of our own: each fault is a bug to report, its event is a dead letter.",
            "short",
            (Query(rate(m.AGENT_EVENTS, "agent"), "{{agent}}"), Query(rate(m.AGENT_FAULTS, "agent"), "{{agent}}: faults")),
            columns=8,
        ),
        Panel(
            "Last word of the workers",
            "What each worker last said of itself.",
            "short",
            (Query(f"{now(m.WORKER_HEALTH, 'worker', 'health', how='max')} == 1", "{{worker}}: {{health}}"),),
            Look.STATES,
        ),
        Panel(
            "Silence of the workers",
            "Seconds since each worker was last heard of. Above the line it counts as dead and nothing is asked of it.",
            "s",
            (Query(f"time() - {now(m.WORKER_REPORTED, 'worker', how='max')}", "{{worker}}"),),
            threshold=Settings().worker_lost_s,
        ),
    ),
)

_RECENT_WEIGHTS = f"count by ({', '.join(WEIGHTS)}) (count_over_time({series(m.SERVING, '', WEIGHTS)}[{MARK_WINDOW}]))"

INCIDENTS = Mark("Incidents", f"{now(m.INCIDENTS_OPEN, 'kind', 'state')} > 0", "{{kind}} incident: {{state}}", "red")
SWITCHES = Mark(
    # Two digests of one context within the window: the one that serves now replaced the other.
    "Switched weights",
    f"{now(m.SERVING, *WEIGHTS, how='max')} and on (context) (count by (context) ({_RECENT_WEIGHTS}) > 1)",
    "{{context}}: {{mode}} model {{digest}} serves",
    "blue",
)

BOARD = Board(
    "watch",
    "kerbwatch - watch",
    "A pedestrian detector in service: what it judges, what is suspected, what was done about it.",
    (GLANCE, FLOW, VIEW, EVIDENCE, RESPONSE, TROUBLE),
    (
        INCIDENTS,
        Mark(
            "Attacks noticed",
            f"{increase(m.SIGNALS, 'kind', window=MARK_WINDOW, phase=Phase.RAISED)} > 0",
            "{{kind}} raised",
            "orange",
        ),
        SWITCHES,
        Mark(
            "Failed effects",
            f"{increase(m.EFFECT_ATTEMPTS, window=MARK_WINDOW, outcome=Outcome.FAILED)} > 0",
            "an effect failed",
            "purple",
        ),
    ),
)
