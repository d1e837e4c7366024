"""A first program for a sandbox: pi to a thousand decimals, digit by digit, with integers only."""

import sys
import time

DIGITS = 1000
FEYNMAN_POINT = 762  # here six nines follow each other
LAST_TEN = "2164201989"  # decimals 991 to 1000, from the literature


def digits_of_pi():
    """The unbounded spigot: each step either knows the next digit or takes in one more term of the series."""
    q, r, t, k, m, x = 1, 0, 1, 1, 3, 3
    while True:
        if 4 * q + r - t < m * t:
            yield m
            q, r, m = 10 * q, 10 * (r - m * t), 10 * (3 * q + r) // t - 10 * m
        else:
            q, r, t, k, m, x = (
                q * k, (2 * q + r) * x, t * x, k + 1, (q * (7 * k + 2) + r * x) // (t * x), x + 2,
            )


def mandelbrot(width=64, height=20, depth=60):
    """The set as a few lines of text; the darker the sign, the longer the point held out."""
    shades = " .:-=+*#%@"
    for row in range(height):
        line = ""
        for column in range(width):
            c = complex(-2.2 + 3.0 * column / width, -1.2 + 2.4 * row / (height - 1))
            z, step = 0j, 0
            while abs(z) <= 2 and step < depth:
                z, step = z * z + c, step + 1
            line += shades[min(step * len(shades) // (depth + 1), len(shades) - 1)]
        yield line.rstrip()


def main():
    started = time.monotonic()
    print(f"Python {sys.version.split()[0]} says hello from inside the sandbox", flush=True)
    for line in mandelbrot():
        print(line, flush=True)

    source = digits_of_pi()
    whole, decimals = next(source), ""
    for _ in range(DIGITS):
        decimals += str(next(source))
        if len(decimals) % 250 == 0:
            elapsed = (time.monotonic() - started) * 1000
            print(f"{elapsed:6.0f} ms  {len(decimals):4} decimals of pi ... {decimals[-10:]}", flush=True)

    assert decimals[FEYNMAN_POINT - 1 : FEYNMAN_POINT + 5] == "999999", "the six nines are not where they belong"
    assert decimals[-10:] == LAST_TEN, f"the last ten decimals are {decimals[-10:]}"
    print(f"six nines at decimal {FEYNMAN_POINT} and the last ten decimals are as known: correct")

    with open("pi.txt", "w") as file:
        file.write(f"{whole}.{decimals}\n")
    print("written: pi.txt")


main()
