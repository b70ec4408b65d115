"""Draws the pictures of plan_a_run.md anew, beside this file: those of `mai plan --html`, each on its own.

python docs/guides/plan_a_run/draw.py
"""

import re
import sys
from html import unescape
from pathlib import Path
from tempfile import TemporaryDirectory

from mai.hardware.cluster import Cluster, load_cluster
from mai.plan.goodput.failures import load_failures
from mai.plan.goodput.goodput import goodput_of
from mai.plan.goodput.goodput_values import Goodput
from mai.plan.report.plan_report import report
from mai.plan.report.plan_values import Plan
from mai.plan.report.planned_run import planned_run
from mai.plan.report.scaling import Scaling, scaling
from mai.plan.setting import of_recipe
from mai.plan.software import load_software
from mai.plan.telling import pictures, plan_page, what_if
from mai.recipe import load

GUIDE = Path(__file__).parents[1] / "plan_a_run.md"
_LETTER, _SWATCH, _LINE = 6.5, 20, 20
"""Width of a letter, of what stands before a name, and height of a line of a legend."""


def draw(folder: Path) -> None:
    """Write every picture of the guide into this folder: of its first plan, and of that on the cluster it describes."""
    first, scaled, of_first = _planned(load_cluster("h100"), gpus=15_000)
    _, _, of_ours = _planned(_ours(), gpus=None)
    levers = {lever.name: what_if.lever_picture(lever) for lever in of_ours.levers}
    drawn = {
        **levers,
        "memory": pictures.memory_picture(first.memory),
        "time": pictures.time_picture(first.step.time),
        "scaling": pictures.scaling_picture(scaled, first.gpus, first.speed.tokens_per_second),
        "spares": what_if.lever_picture(next(each for each in of_first.levers if each.name == "spares")),
        "lost": what_if.lost_picture(of_ours),
    }
    style = re.search(r"<style>(.*?)</style>", plan_page.TEMPLATE.read_text(encoding="utf-8"), re.DOTALL)
    assert style is not None
    for name, picture in drawn.items():
        (folder / f"{name}.svg").write_text(_alone(picture, style[1]), encoding="utf-8")


def _planned(cluster: Cluster, *, gpus: int | None) -> tuple[Plan, Scaling, Goodput]:
    """The plan of mai1_500b there, its scaling, and what Llama 3's failures leave of it."""
    recipe = of_recipe.within(load.find("mai1_500b")(), cluster, gpus)
    setting = of_recipe.setting_of(recipe, cluster, load_software("mai"))
    found = report(recipe, setting, gpus=gpus)
    goodput = goodput_of(load_failures("llama3"), planned_run(found, cluster))
    return found, scaling(recipe, setting), goodput


def _ours() -> Cluster:
    (table,) = re.findall(r"^```toml\n(.*?)^```", GUIDE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    with TemporaryDirectory() as folder:
        file = Path(folder) / "ours.toml"
        file.write_text(table, encoding="utf-8")
        return load_cluster(file)


def _alone(picture: str, style: str) -> str:
    """A picture of the page as a file of its own: with the page's colours, and its legend inside."""
    legend, _, inner = picture.partition("<svg ")
    box, _, shapes = inner.partition(">")
    width, height = map(float, re.findall(r'viewBox="0 0 (\S+) (\S+)"', box)[0])
    names, above = _legend(legend, width)
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" '
        f'viewBox="0 {-above:g} {width:g} {height + above:g}" width="{width:g}">\n'
        f"<style>{style}</style>\n"
        f'<rect x="0" y="{-above:g}" width="{width:g}" height="{height + above:g}" style="fill: var(--paper)"/>\n'
        f"{names}{shapes}"
    )


def _legend(html: str, width: float) -> tuple[str, float]:
    """Its names in rows above the picture, and how high they are."""
    entries = [(style, unescape(name)) for style, name in re.findall(r'<i class="(\w+)"></i>([^<]+)', html)]
    places, x, row = [], 0.0, 0
    for style, name in entries:
        needed = _SWATCH + _LETTER * len(name) + _SWATCH
        if x + needed > width:
            x, row = 0.0, row + 1
        places.append((style, name, x, row))
        x += needed
    above = _LINE * (row + 1) + 6.0 if entries else 0.0
    shapes = [
        f'<rect class="{style}" x="{x:g}" y="{y - above:g}" width="11" height="11"/>'
        f'<text x="{x + 16:g}" y="{y - above + 10:g}">{name}</text>\n'
        for style, name, x, y in ((style, name, x, _LINE * row + 4) for style, name, x, row in places)
    ]
    return "".join(shapes), above


if __name__ == "__main__":
    draw(Path(sys.argv[0]).parent)
