from pathlib import Path

from mendscan.training.metrics_log import MetricsLog, draw_curves


def test_a_stage_is_put_back_to_where_it_was_saved(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    for step in range(5):
        log.write("vqvae", step, loss=1.0)
    log.write("prior", 0, loss=2.0)
    saved = log.entries()[:3]
    log.restore("vqvae", saved)
    assert [(e["stage"], e["step"]) for e in log.entries()] == [("prior", 0), ("vqvae", 0), ("vqvae", 1), ("vqvae", 2)]
    log.in_order(("vqvae", "prior"))
    assert log.entries() == [*saved, {"stage": "prior", "step": 0, "loss": 2.0}]


def test_a_line_cut_off_by_a_crash_is_dropped(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.write("vqvae", 0, loss=1.0)
    with log.path.open("a") as opened:
        opened.write('{"stage": "vqv')
    assert len(log.entries()) == 1
    log.restore("vqvae", log.entries())
    log.write("vqvae", 1, loss=1.0)
    assert len(log.entries()) == 2


def test_damaged_lines_are_left_out(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.path.write_bytes(b'\xff\xfe\n[1]\n{"step": 1}\n{"stage": "vqvae", "step": 0}\n')
    assert log.entries() == [{"stage": "vqvae", "step": 0}]


def test_curves_are_drawn(tmp_path: Path) -> None:
    entries = [{"stage": "vqvae", "step": s, "reconstruction": 1 / (s + 1), "holdout_l1": 1.0} for s in range(5)]
    draw_curves(entries, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
