"""Copies the console's two libraries into the package: `python -m tools.vendor`, or `make vendor`.

The console's page works without internet, so its libraries are files of the package. Each comes from npm's
registry at a fixed version and must have the hash that the registry has published for it. To update one:
change its version and hash (`npm view marked dist.integrity`) in `LIBRARIES`, run this, run the tests of
the console, and read the library's changes.
"""

import base64
import hashlib
import io
import sys
import tarfile
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parents[1] / "supervisor/agentscope_supervisor/web/console_page"


@dataclass(frozen=True)
class Library:
    """A file of a package of npm. `sha512`: of the package's archive, in base64. `file`: in the archive."""

    name: str
    version: str
    sha512: str
    file: str
    target: str

    @property
    def url(self) -> str:
        return f"https://registry.npmjs.org/{self.name}/-/{self.name}-{self.version}.tgz"


LIBRARIES: Final = (
    Library(  # Markdown to HTML. MIT license.
        "marked",
        "18.2.1",
        "ii4bxCTCqqwpT86XZWgJNs+ZnAIZksmLGYMViWA7PDIXYIeNo1x6cDdX3JOip9NM/cI6p8z57FxliACboTruMA==",
        "package/lib/marked.esm.js",
        "marked.js",
    ),
    Library(  # Removes all that is active from HTML. Apache License 2.0 or MPL 2.0.
        "dompurify",
        "3.5.0",
        "LYC0ZkE8P1V42JsRYTwMdme/2ET8SpOc5AA2eOFjP/IadvRd2fwiT4TVz5vkfy0XUx12aS2UaRkTnfVPNOv9vw==",
        "package/dist/purify.min.js",
        "dompurify.js",
    ),
)


def extracted(library: Library, archive: bytes) -> tuple[str, str]:
    """Return the library's file and its license from the archive of its package.

    Raises: ValueError if the archive does not have the expected hash.
    """
    found = base64.b64encode(hashlib.sha512(archive).digest()).decode()
    if found != library.sha512:
        raise ValueError(f"{library.url}: the hash is {found}, expected {library.sha512}")
    with tarfile.open(fileobj=io.BytesIO(archive)) as package:
        script, its_license = (_text(package, name) for name in (library.file, "package/LICENSE"))
    # A browser would ask for the source map, which is not part of the package.
    lines = [line for line in script.splitlines() if not line.startswith("//# sourceMappingURL=")]
    return "\n".join(lines) + "\n", its_license


def _text(package: tarfile.TarFile, name: str) -> str:
    file = package.extractfile(name)
    assert file is not None, f"{name} is not a file"
    return file.read().decode()


def main() -> int:
    licenses = []
    for library in LIBRARIES:
        with urllib.request.urlopen(library.url, timeout=60) as response:
            archive = response.read()
        script, its_license = extracted(library, archive)
        (FOLDER / library.target).write_text(script, "utf-8")
        licenses.append(f"{library.target} is {library.name} {library.version}:\n\n{its_license.strip()}\n")
        print(f"{library.target}: {library.name} {library.version}")
    (FOLDER / "licenses.txt").write_text("\n\n".join(licenses), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
