"""Tests, before a browser is used, whether its isolation works.

Flags are renamed from one Chromium to the next (156 uses another one for WebRTC than older versions), and policies
of a managed machine override flags (a proxy of its own, for example). A flag without effect gives no error.
"""

from __future__ import annotations

from contextlib import suppress

import anyio
from playwright.async_api import BrowserContext, Error

from mcp_servers.browser.tunnel import LOOPBACK, Tunnel
from mcp_servers.failures import ToolFailure

CHECK_TIMEOUT_S = 10.0
# Candidates are addresses at which a page can be reached by UDP: none, if WebRTC stays inside the tunnel.
COUNT_UDP_CANDIDATES = """async () => {
    if (!window.RTCPeerConnection) return 0;
    const peer = new RTCPeerConnection();
    let found = 0;
    const ended = new Promise(end => peer.onicecandidate = event => event.candidate ? found += 1 : end());
    peer.createDataChannel('');
    await peer.setLocalDescription(await peer.createOffer());
    await ended;
    peer.close();
    return found;
}"""


async def check_walls(context: BrowserContext, tunnel: Tunnel, tunnel_port: int) -> None:
    """Try to bypass the tunnel from an empty page.

    Raises:
        ToolFailure: A bypass is possible.
        TimeoutError: The page does not answer.
    """
    page = await context.new_page()
    with anyio.fail_after(CHECK_TIMEOUT_S):
        n_candidates = await page.evaluate(COUNT_UDP_CANDIDATES)
        # Even the nearest address, the tunnel's own, must be requested through the tunnel.
        with suppress(Error):
            await page.goto(f"http://{LOOPBACK}:{tunnel_port}/", wait_until="commit")
        await page.close()
    if n_candidates != 0:
        raise ToolFailure("This Chromium lets WebRTC past the tunnel, so it is not used.")
    if (LOOPBACK, tunnel_port) not in tunnel.take_traffic().refused:
        raise ToolFailure(
            "This Chromium does not go through the tunnel, so it is not used. A policy may forbid it."
        )
