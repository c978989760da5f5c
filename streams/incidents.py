"""`kerbwatch incidents`: what responders say and do, with what is read out of Kafka's log, as one group.

It decides nothing. It stands apart from the other commands so that it starts at once when it matters. No topic feeds it.
"""

from responders.incidents_cli import app
from responders.watch_cli import watch
from streams.evidence import evidence, verify_bundle
from streams.report import report

app.command("watch")(watch)
app.command("evidence")(evidence)
app.command("verify")(verify_bundle)
app.command("report")(report)

__all__ = ["app"]
