"""Features of a recording onto a map, and a question in words.

    python examples/backproject.py MAP STREAM ALIGNMENT "coffee mug"

`make demo` leaves all three in demo/scene: map.ply, stream, alignment.yaml.
"""

import sys

import feature_gs_ros as fgs

map_file, stream, alignment, prompt = sys.argv[1:]

gaussians = fgs.load_map(map_file)  # N Gaussians in the map's own frame and scale
splat_from_map = fgs.load_alignment(alignment)  # from the robot's map frame into it
field = fgs.back_project(gaussians, fgs.open_stream(stream), splat_from_map=splat_from_map, every=2)

answer = fgs.Segmenter(gaussians, field).ask([prompt])[0]
print(answer.message)
for found in fgs.find_objects(gaussians, answer.mask, answer.similarity, splat_from_map.inverse()):
    print(f"  centre {found.box.center.round(3)} m, size {found.box.size.round(3)} m in the map frame")
