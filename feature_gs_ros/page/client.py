"""What a browser loads: viser's client, and in its head what tells the server of a browser that draws without a GPU.

There a frame takes a processor in proportion to its Gaussians: a second for 60,000, whatever the resolution. Such a
browser goes on at `SOFTWARE_PAGE`; by that path the server knows, and sends fewer.
"""

from __future__ import annotations

from pathlib import Path

import viser

SOFTWARE_PAGE = "software.html"

_HEAD = """<script>
(() => {
  if (location.pathname !== "/") return;
  const drawing = document.createElement("canvas").getContext("webgl2");
  if (!drawing) return;
  const names = drawing.getExtension("WEBGL_debug_renderer_info");
  const renderer = String(drawing.getParameter(names ? names.UNMASKED_RENDERER_WEBGL : drawing.RENDERER));
  drawing.getExtension("WEBGL_lose_context")?.loseContext();
  if (!/swiftshader|llvmpipe|softpipe|software|basic render/i.test(renderer)) return;
  history.replaceState(null, "", "PAGE" + location.search);
})();
</script>"""


def write_client(folder: Path) -> Path:
    """Write the client's files into a folder, and return the folder."""
    page = (Path(viser.__file__).parent / "client" / "build" / "index.html").read_text(encoding="utf-8")
    page = page.replace("<head>", "<head>" + _HEAD.replace("PAGE", SOFTWARE_PAGE), 1)
    for name in ("index.html", SOFTWARE_PAGE):
        (folder / name).write_text(page, encoding="utf-8")
    return folder
