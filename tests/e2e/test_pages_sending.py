"""The results of a case in a real browser: what arrived, what did not, and 'send again' to a real PACS."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from service.store.database import transaction
from service.workflow import deliver
from tests.e2e.test_pages import CHROMIUM, browser
from tests.support_api import web_over
from tests.support_app import PASSWORD, add_people
from tests.support_delivery import OrderedScp, all_of, queue_objects, rig_for, states
from tests.support_dicom import wait_until

__all__ = ["browser"]
pytestmark = pytest.mark.e2e


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_a_refused_result_is_sent_again_from_the_page_of_its_case(browser: Any, tmp_path: Path) -> None:
    refusing = [True]
    scp = OrderedScp(lambda uid, _nth: 0xA900 if refusing[0] and uid.endswith(".8.2") else 0)
    with scp.running() as pacs:
        rig = rig_for(tmp_path, pacs)
        add_people(rig.app, "technician", "surgeon")
        queue_objects(rig, 3, "PACS")
        deliver.deliver_to(rig.app, "PACS")
        assert states(rig) == ["DELIVERED", "REFUSED", "DELIVERED"]
        kept, refused, lost = all_of(rig)
        with transaction(rig.app.engine) as connection:
            connection.exec_driver_sql(
                f"UPDATE deliveries SET commit_state = 'COMMITTED' WHERE id = '{kept.id}'"
            )
            connection.exec_driver_sql(
                f"UPDATE deliveries SET commit_state = 'REFUSED', commit_detail = '0112 gone' WHERE id = '{lost.id}'"
            )
        server = uvicorn.Server(
            uvicorn.Config(web_over(rig.app), host="127.0.0.1", port=0, log_config=None, access_log=False)
        )
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        wait_until(lambda: server.started, 20)
        url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        try:
            page = _open(browser, url, "technician", f"/cases/{refused.case_id}")
            rows = {i.id: page.locator(f"tr[data-delivery='{i.id}']") for i in (kept, refused, lost)}
            rows[refused.id].get_by_text("refused", exact=True).wait_for()
            assert "A900" in rows[refused.id].inner_text()
            assert "kept for good" in rows[kept.id].inner_text()
            assert (
                "0112 gone" in rows[lost.id].inner_text() and "not kept there" in rows[lost.id].inner_text()
            )
            assert rows[kept.id].get_by_role("button").count() == 0
            assert rows[lost.id].get_by_role("button").count() == 1
            page.screenshot(path=str(tmp_path / "deliveries.png"), full_page=True)
            refusing[0] = False
            rows[refused.id].get_by_role("button").click()
            rows[refused.id].get_by_text("waiting", exact=True).wait_for()
            deliver.deliver_to(rig.app, "PACS")
            rows[refused.id].get_by_text("delivered", exact=True).wait_for()
            assert states(rig) == ["DELIVERED"] * 3
            # A surgeon sees it, and has no button.
            other = _open(browser, url, "surgeon", f"/cases/{refused.case_id}")
            other.locator(f"tr[data-delivery='{lost.id}']").wait_for()
            assert other.get_by_role("button", name="Send again").count() == 0
        finally:
            server.should_exit = True
            thread.join(10)


def _open(browser: Any, url: str, who: str, path: str) -> Any:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    assert context.request.post(f"{url}/api/v1/login", data={"username": who, "password": PASSWORD}).ok
    page = context.new_page()
    page.set_default_timeout(60_000)
    page.goto(url + path)
    return page
