"""As much of SVG as charts need: one canvas, bars, lines, points, axes with logarithmic scales."""

import html
import math
import pathlib

INK, FAINT, GRID = "#1f2328", "#656d76", "#d8dee4"
COLOURS = {"ours": "#1f6feb", "peer": "#8c959f", "fp32": "#8250df", "bf16": "#1f6feb", "int8": "#1a7f37"}
STAGES = ("#9ec5fe", "#1f6feb", "#8250df")


class Canvas:
    def __init__(self, width, height, title):
        self.width, self.height = width, height
        self.parts = [f'<rect width="{width}" height="{height}" fill="#ffffff"/>']
        self.title = title
        self.text(20, 28, title, size=16, weight="bold")

    def text(self, x, y, words, size=12, anchor="start", colour=INK, weight="normal", turn=0):
        turned = f' transform="rotate({turn} {x:.1f} {y:.1f})"' if turn else ""
        self.parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="{colour}" '
            f'font-weight="{weight}"{turned}>{html.escape(words)}</text>'
        )

    def bar(self, x, y, width, height, colour):
        self.parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 1):.1f}" height="{height}" fill="{colour}"/>')

    def line(self, points, colour=GRID, width=1.0, dash=""):
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        self.parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"{dashed}/>')

    def point(self, x, y, colour, hollow=False):
        fill = "#ffffff" if hollow else colour
        self.parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="{fill}" stroke="{colour}" stroke-width="2"/>')

    def save(self, path):
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{self.width}" height="{self.height}" '
            f'viewBox="0 0 {self.width} {self.height}" font-family="system-ui, sans-serif" role="img" '
            f'aria-label="{html.escape(self.title)}">'
        )
        pathlib.Path(path).write_text("\n".join([head, *self.parts, "</svg>"]) + "\n")


def bars(canvas, top, rows, unit="ms"):
    """Horizontal bars, one a row: (name, [amounts that follow each other], [their colours]). Returns where they end."""
    step, thick, name_width = 24, 15, 310
    room = canvas.width - name_width - 110
    most = max(sum(amounts) for _, amounts, _ in rows)
    for i, (name, amounts, colours) in enumerate(rows):
        y, x = top + i * step, name_width
        canvas.text(name_width - 8, y + 12, name, anchor="end")
        for amount, colour in zip(amounts, colours):
            canvas.bar(x, y, room * amount / most, thick, colour)
            x += room * amount / most
        total = sum(amounts)
        canvas.text(x + 6, y + 12, f"{total:,.0f} {unit}" if total >= 10 else f"{total:.1f} {unit}", colour=FAINT)
    return top + len(rows) * step


def legend(canvas, x, y, entries):
    for name, colour in entries:
        canvas.bar(x, y - 9, 11, 11, colour)
        canvas.text(x + 16, y, name, colour=FAINT)
        x += 30 + 7 * len(name)


class Axes:
    """A field with logarithmic axes, `x` and `y` each (least, most)."""

    def __init__(self, canvas, box, x, y, x_name, y_name, x_ticks, y_ticks):
        self.canvas, self.box, self.x, self.y = canvas, box, x, y
        left, top, right, bottom = box
        for value, label in x_ticks:
            px, _ = self.at(value, y[0])
            canvas.line([(px, top), (px, bottom)])
            canvas.text(px, bottom + 17, label, anchor="middle", colour=FAINT)
        for value, label in y_ticks:
            _, py = self.at(x[0], value)
            canvas.line([(left, py), (right, py)])
            canvas.text(left - 7, py + 4, label, anchor="end", colour=FAINT)
        canvas.line([(left, top), (left, bottom), (right, bottom)], INK)
        canvas.text((left + right) / 2, bottom + 38, x_name, anchor="middle")
        canvas.text(left - 52, (top + bottom) / 2, y_name, anchor="middle", turn=-90)

    def at(self, x, y):
        left, top, right, bottom = self.box
        across = math.log(x / self.x[0]) / math.log(self.x[1] / self.x[0])
        up = math.log(y / self.y[0]) / math.log(self.y[1] / self.y[0])
        return left + across * (right - left), bottom - up * (bottom - top)

    def curve(self, points, colour, width=2.0, dash=""):
        self.canvas.line([self.at(*point) for point in points], colour, width, dash)

    def mark(self, point, colour, name="", hollow=False, left=False):
        x, y = self.at(*point)
        self.canvas.point(x, y, colour, hollow)
        if name:
            anchor = "end" if left else "start"
            self.canvas.text(x - 9 if left else x + 9, y + 4, name, size=11, anchor=anchor, colour=colour)
