"""Asks a running feature_map, from a program that needs to know nothing of ROS.

ros2 launch feature_gs_ros demo.launch.py     # in another terminal
python examples/ros_client.py "coffee mug" [NODE]
"""

import sys

from feature_gs_ros import FeatureMapClient

prompt, *node = sys.argv[1:]

with FeatureMapClient(*node) as client:
    client.wait_until_active()
    status = client.wait_for_views(5)
    print(f"{status.views} views, {status.coverage:.0%} of {status.gaussians} Gaussians seen")
    answer = client.ask(prompt)  # raises UnknownPromptError where the extractor doesn't know the word
    print(answer.message)
    for found in answer.objects:
        print(f"  {found.label} {found.id}: centre {found.center.round(3)} m, size {found.size.round(3)} m")
    if answer:
        print(f"  mean similarity {answer.cloud['similarity'].mean():.2f}")
