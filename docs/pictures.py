"""Take the pictures of README and docs from a finished study: python docs/pictures.py [OUTPUT] [STUDY]

Starts MLflow's server on the output folder, and a headless Chromium. Default: gradsweep-output census-quick.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from mlflow import MlflowClient
from playwright.sync_api import Page, sync_playwright

from hpo.tracking.backend import UI_VIEW, embedded_uri
from hpo.tracking.server import healthy, serve

IMAGES = Path(__file__).parent / "images"
BROWSER = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
PORT = 5097


def report(page: Page, output: Path, study: str) -> None:
    """Take pictures of the report's first screen and of three figures."""
    page.set_viewport_size({"width": 1180, "height": 900})
    page.goto((output / study / "report" / "report.html").resolve().as_uri())
    page.locator("body[data-drawn]").wait_for()
    hero = page.locator(".hero").bounding_box()
    assert hero is not None
    clip = {"x": 0, "y": 0, "width": 1180, "height": hero["y"] + hero["height"] + 16}
    page.screenshot(path=IMAGES / "report.png", clip=clip)
    for name, part in {"trajectories": "trajectories", "static-points": "static_points", "budget": "budget"}.items():
        figure = page.locator(f"#{part} figure")
        figure.scroll_into_view_if_needed()
        figure.screenshot(path=IMAGES / f"{name}.png")


def ui(page: Page, output: Path, study: str, address: str) -> None:
    """Take a picture of the curves of a GradNorm trial in MLflow's UI."""
    client = MlflowClient(embedded_uri(output))
    experiment = client.get_experiment_by_name(study)
    assert experiment is not None
    chosen = client.search_runs(
        [experiment.experiment_id], "tags.`gradsweep.method` = 'gradnorm' and params.recipe = 'direct'", max_results=1
    )
    run = chosen[0].info.run_id
    page.set_viewport_size({"width": 1500, "height": 900})
    page.goto(f"{address}/#/experiments/{experiment.experiment_id}/runs/{run}/model-metrics?{UI_VIEW}")
    page.locator(".js-plotly-plot .main-svg").nth(3).wait_for()
    close = page.get_by_role("button", name="Close")
    if close.count():
        close.first.click()  # MLflow's assistant, which covers a third of the page
    page.screenshot(path=IMAGES / "mlflow-metrics.png")


def main() -> None:
    """Take every picture."""
    output, study = Path(sys.argv[1] if len(sys.argv) > 1 else "gradsweep-output"), "census-quick"
    study = sys.argv[2] if len(sys.argv) > 2 else study
    IMAGES.mkdir(exist_ok=True)
    server, address = serve(embedded_uri(output), "127.0.0.1", PORT), f"http://127.0.0.1:{PORT}"
    try:
        healthy(address, server)
        with sync_playwright() as play:
            browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=BROWSER)
            page = browser.new_page()
            report(page, output, study)
            ui(page, output, study, address)
            browser.close()
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()
