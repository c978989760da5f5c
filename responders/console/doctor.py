"""`kerbwatch doctor`: is this machine fit, would anybody hear of an incident, and do its playbooks hold?

It decides what the notifiers' settings and the deployment's own playbooks are worth, and shows that with what `infra.doctor` finds;
it refuses to change or send anything. No topic feeds it.

Source: paper 4.7 (notification).
"""

from dataclasses import asdict

import typer
from rich.console import Console

from infra import doctor
from infra.certificates import utc_now
from infra.doctor import Finding
from infra.settings import Settings, read_settings
from responders.console.tables import AsJson, plain, print_json, table
from responders.notify.channels import ChannelName
from responders.notify.from_settings import set_up
from responders.playbooks.chosen import choose


def channels(settings: Settings) -> Finding:
    """Whether the settings of every channel hold, and whether there is one that reaches people who do not read the log."""
    rows = set_up(settings)
    usable = ", ".join(row.channel for row in rows if row.usable)
    if faulty := [row for row in rows if row.faulty]:
        found = f"{', '.join(row.channel for row in faulty)} faulty: nobody is told by it"
        return Finding("channels", found, "; ".join(row.why for row in faulty))
    if usable == ChannelName.CONSOLE:
        why = "calls only stand in the responder's log: set a channel up (docs/incidents.md, Notifiers)"
        return Finding("channels", "console only", warning=why)
    return Finding("channels", f"{usable}; try each with `kerbwatch notify test`")


def playbooks(settings: Settings) -> Finding:
    """Whether the deployment's own playbooks hold; a kind whose file does not is handled by the packaged one."""
    chosen = choose(settings.playbooks)
    own = ", ".join(f"{kind} from {chosen.source(kind)}" for kind in chosen.own)
    return Finding("playbooks", own or "packaged", "; ".join(chosen.faults))


def diagnose(as_json: AsJson = False) -> None:
    """Say what this machine lacks, and the next step for each; exit code 1 if anything. Example: `kerbwatch doctor`."""
    settings = read_settings()
    findings = (*doctor.examine(settings, utc_now()), channels(settings), playbooks(settings))
    fine = all(finding.met for finding in findings)
    if as_json:
        print_json({"ok": fine, "findings": [asdict(finding) | {"met": finding.met} for finding in findings]})
    else:
        shown = table("", "need", "found", "next step")
        for one in findings:
            met = "[red]NOT MET[/]" if not one.met else "[yellow]warning[/]" if one.warning else "ok"
            shown.add_row(met, plain(one.need), plain(one.found), plain(one.next_step or one.warning))
        Console().print(shown)
    if not fine:
        raise typer.Exit(1)
