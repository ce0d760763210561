"""report: a run directory as one self-contained HTML file.

    write_report(Path("runs/quickstart"))        # -> runs/quickstart/report.html

Learning curves with intervals, every named reward, signs of trouble, time by phase, and sample
episodes turn by turn with the tokens that were trained. No script and no request: the file can be
mailed and opened anywhere.
"""

from .page import write_report

__all__ = ["write_report"]
