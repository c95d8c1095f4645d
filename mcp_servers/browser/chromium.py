"""Finding and starting Chromium: an installed one, never a downloaded one, that ends with the server.

Playwright starts it with a fresh profile in the temporary directory, removed at the end. The server talks to
Playwright's driver, and the driver to Chromium, through pipes: no debugging port is open, and when the server is
gone, however it ended, the driver ends Chromium and removes the profile. Chromium's other files (crash reports,
font caches, certificates) are not written, because its home is not a directory. Of the server's environment, which
may hold keys, it gets only the variables listed here.

A link like mailto: makes Chromium run the desktop's programs. It runs xdg-settings to learn whether it handles the
link itself; if not, it runs xdg-open or xdg-email, after a dialog that is invisible here and blocks all input to
the page. `desktop/` holds stand-ins for the three, first on Chromium's PATH: they answer yes, and open nothing.
"""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mcp_servers.failures import StartError

if TYPE_CHECKING:
    from playwright.async_api import Browser, Playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
START_TIMEOUT_MS = 20_000
PASSED_VARIABLES = ("TMPDIR", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "FONTCONFIG_FILE")
NO_HOME = "/dev/null"
UNGUARDED = "A page that takes over its process has the rights of this user; open pages that you trust."
STAND_INS = Path(__file__).parent / "desktop"
STAND_IN_NAMES = ("xdg-email", "xdg-open", "xdg-settings")

# Chromium's own services (updates, sign-in, autofill) are redirected to a name that cannot exist (RFC 6761), so
# that the tunnel refuses them and can distinguish them from a page's requests. The other hosts cannot be
# redirected: Chromium asks them for dictionaries, for push messages and for the detection of captive portals.
OWN_SERVICES = "chromium.invalid"
OWN_HOSTS = frozenset(
    {
        OWN_SERVICES,
        "android.clients.google.com",
        "mtalk.google.com",
        "redirector.gvt1.com",
        "connectivitycheck.gstatic.com",
    }
)
FLAGS = (
    # Every connection uses the tunnel, loopback included; no DNS look-ups, no UDP. WebRTC's flag was renamed:
    # version 156 uses the second, older ones the first. `walls.py` tests the effect.
    "--proxy-bypass-list=<-loopback>",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
    "--disable-quic",
    "--force-webrtc-ip-handling-policy=disable_non_proxied_udp",
    "--webrtc-ip-handling-policy=disable_non_proxied_udp",
    # Disable background traffic. Playwright adds --no-first-run, --disable-background-networking,
    # --disable-component-update, --disable-sync, --disable-extensions, --disable-breakpad and others.
    "--disable-domain-reliability",
    "--no-pings",
    f"--gaia-url=https://{OWN_SERVICES}",
    f"--google-url=https://{OWN_SERVICES}",
    f"--google-apis-url=https://{OWN_SERVICES}",
    f"--autofill-server-url=https://{OWN_SERVICES}",
    f"--component-updater=url-source=https://{OWN_SERVICES}/",
    # For a machine without a screen; scrolling takes effect immediately.
    "--disable-gpu",
    "--disable-smooth-scrolling",
)
# Flags that Playwright adds for tests: a page could open windows, and flood the browser, without limit.
UNWANTED_FLAGS = ("--disable-popup-blocking", "--disable-ipc-flooding-protection")


@dataclass(frozen=True)
class Settings:
    """Start options of Chromium."""

    executable: str
    sandbox: bool
    """True: Chromium's own sandbox is on; as root Chromium refuses to start with it."""
    width: int = 1280
    height: int = 800


def find_chromium(path: str | None) -> str:
    """Return the executable at `path`, or the first one installed.

    Raises:
        StartError: There is none.
    """
    found = shutil.which(path) if path else next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        missing = f"{path!r} is not a program" if path else f"none of {', '.join(NAMES)} is installed"
        raise StartError(f"{missing}. Install Chromium (Debian: apt install chromium) or name it with --chromium.")
    return os.path.abspath(found)


def check_system() -> None:
    """Check the requirements of the browser's isolation outside Chromium.

    Raises:
        StartError: The system is not Linux, or the stand-ins cannot be executed.
    """
    if not sys.platform.startswith("linux"):
        raise StartError("The browser server runs on Linux alone: elsewhere a page could start other programs.")
    lost = [name for name in STAND_IN_NAMES if not os.access(STAND_INS / name, os.X_OK)]
    if lost:
        raise StartError(f"{', '.join(lost)} in {STAND_INS} cannot be executed; install it again, or chmod 755.")


def sandbox_note(no_sandbox: bool) -> tuple[bool, str]:
    """Return whether Chromium's sandbox is on, and a note for the launcher with the reason."""
    if no_sandbox:
        return False, f"Warning: Chromium's sandbox is off (--no-sandbox). {UNGUARDED}"
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        return False, f"Warning: Chromium's sandbox is off: it cannot be used as root. {UNGUARDED}"
    return True, "Chromium's sandbox is on."


async def launch(playwright: Playwright, settings: Settings, tunnel_port: int) -> Browser:
    """Start Chromium with the tunnel as its only way out."""
    return await playwright.chromium.launch(
        executable_path=settings.executable,
        chromium_sandbox=settings.sandbox,
        args=[*FLAGS, f"--proxy-server=socks5://127.0.0.1:{tunnel_port}"],
        ignore_default_args=list(UNWANTED_FLAGS),
        env=_environment(),
        timeout=START_TIMEOUT_MS,
    )


def _environment() -> dict[str, str | float | bool]:
    passed = {name: os.environ[name] for name in PASSED_VARIABLES if name in os.environ}
    return {**passed, "HOME": NO_HOME, "PATH": f"{STAND_INS}{os.pathsep}{os.environ.get('PATH', os.defpath)}"}
