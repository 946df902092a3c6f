"""Metrics of the variants of a test side by side: a table, their mean, a curve."""

from pathlib import Path

import utils


def report_variants(task, by_name, plan, run_dir, names=()):
    """Print the table of a task's {variant's name: metrics} and draw the curve.

    The mean over the weather conditions is what MuSe-Net (Wang et al., Pattern Recognition 2024)
    reports; it is added to `by_name`. A plain test has one variant, named "": nothing is printed.

    Args:
        task: (view of the queries, view of the gallery).
        plan: of the test, imaging.variants.Plan.
        names: added to the name of the picture in `run_dir`, or where that is None here.

    Returns the lines that the run's result.txt gets.
    """
    if "" in by_name:
        return []
    title, lines = " -> ".join(task), []
    by_label = {label: by_name[name] for name, label in plan.labels.items()}
    notes, *others = [metrics.get("protocol", []) for metrics in by_label.values()]
    notes = notes if all(each == notes for each in others) else []
    if plan.mean_of:
        mean = by_label["mean"] = by_name["mean"] = mean_metrics(list(by_name.values()))
        heading = f"{title}, mean of {len(plan.labels)} {plan.mean_of}"
        numbers = f"Recall@1:{mean['recall@1']:.2f} AP:{mean['AP']:.2f}"
        lines.append(f"{'; '.join([heading, *notes])}: {numbers}")
    print("\n".join([*notes, variant_table(title, by_label)]))
    if len(plan.amounts) > 1:
        picture = (run_dir or Path()) / ("_".join([plan.curve, *names]) + ".png")
        points = zip(plan.amounts, by_label.values(), strict=True)
        of = f"the run {run_dir.name}" if run_dir else "a pretrained network"
        draw_curve(picture, points, f"{title} of {of}", plan.axis)
        print(f"curve: {picture}")
    return lines


def mean_metrics(metrics):
    """The mean of each number that all of several metrics have."""
    return {
        key: sum(each[key] for each in metrics) / len(metrics)
        for key, value in metrics[0].items()
        if isinstance(value, (int, float)) and all(key in each for each in metrics)
    }


def variant_table(title, by_label):
    """Lines of Recall@1 and AP of {label: metrics}."""
    lines = [f"{title:<28}Recall@1     AP"]
    for label, metrics in by_label.items():
        lines.append(f"  {label:<26}{metrics['recall@1']:>8.2f} {metrics['AP']:>6.2f}")
    return "\n".join(lines)


def draw_curve(path, points, title, axis_label):
    """Plot Recall@1 and AP of (amount, metrics) pairs: numbers ascending, names as given."""
    points = list(points)
    if not isinstance(points[0][0], str):
        points.sort(key=lambda point: point[0])
    amounts = [amount for amount, _ in points]
    with utils.chart(path, (6.4, 4)) as (axis,):
        for key, label in (("recall@1", "Recall@1"), ("AP", "AP")):
            axis.plot(amounts, [metrics[key] for _, metrics in points], marker="o", label=label)
        axis.set(title=title, xlabel=axis_label, ylabel="percent", ylim=(0, 100))
        axis.legend(frameon=False)
