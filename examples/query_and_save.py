"""Ask a saved field, and save what was found as a splat of its own.

python examples/query_and_save.py FIELD MAP "coffee mug" OUT.ply [NEGATIVE ...]
"""

import sys
from pathlib import Path

import feature_gs_ros as fgs

field_file, map_file, prompt, out, *negatives = sys.argv[1:]

field = fgs.FeatureField.load(Path(field_file))
gaussians = fgs.load_map(map_file)
segmenter = fgs.Segmenter(gaussians, field)

answer = segmenter.ask([prompt], negatives)[0]
print(answer.message)
if answer.state is fgs.State.FOUND:
    part = gaussians.select(answer.mask)  # M of the N Gaussians, as they lie in the map
    fgs.save_ply(part, Path(out), {"similarity": answer.similarity[answer.mask]})
    print(f"wrote {len(part)} Gaussians to {out}")
