"""What the numbers of the report show, experiment by experiment; numbers are named, not typed.

{study/row} is the row's test accuracy, {study/row - study/row} the points between two.
"""

FINDINGS: dict[str, str] = {}
