/* Differences of neighbouring pixels and their gradient; differences.py says what is computed. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

static inline float sign(float x) { return (float)((x > 0) - (x < 0)); }

/* Signs of the Laplacian of row i into s[1..w], 0 at the ends and in the first and last row; returns the sum of its absolute values. */
static float laplace(const float *e, long i, long h, long w, float *s) {
    memset(s, 0, (size_t)(w + 2) * 4);
    if (i < 1 || i >= h - 1) return 0;
    const float *a = e + (i - 1) * w, *b = a + w, *c = b + w;
    float sum = 0;
    #pragma omp simd reduction(+ : sum)
    for (long j = 1; j < w - 1; j++) {
        const float d = b[j - 1] + b[j + 1] + a[j] + c[j] - 4 * b[j];
        sum += fabsf(d);
        s[j + 1] = sign(d);
    }
    return sum;
}

/* sums[p] and grad (planes, h, w) of each plane of e; h and w at least 3. */
int inkwash_edges(const float *e, float *grad, float *sums, long planes, long h, long w, long threads) {
    const float across = 1.0f / (float)(h * (w - 1)), down = 1.0f / (float)((h - 1) * w), both = 1.0f / (float)((h - 2) * (w - 2));
    int failed = 0;
    #pragma omp parallel for num_threads(threads)
    for (long p = 0; p < planes; p++) {
        float *memory = malloc((size_t)(w + 2) * 6 * 4);
        if (!memory) {
            #pragma omp atomic write
            failed = 1;
            continue;
        }
        float *l[3], *r = memory + 3 * (w + 2), *above = r + w + 2, *below = above + w + 2;
        for (int k = 0; k < 3; k++) l[k] = memory + k * (w + 2);
        const float *x = e + p * h * w;
        double rights = 0, downs = 0, laplaces = 0;
        laplace(x, -1, h, w, l[0]);
        laplace(x, 0, h, w, l[1]);
        memset(above, 0, (size_t)w * 4);
        for (long i = 0; i < h; i++) {
            const float *row = x + i * w;
            float sum = 0, *top = l[i % 3], *here = l[(i + 1) % 3], *next = l[(i + 2) % 3], *g = grad + (p * h + i) * w;
            laplaces += laplace(x, i + 1, h, w, next);
            r[0] = r[w] = 0;                                                            /* r[j]: sign of row[j] - row[j - 1] */
            #pragma omp simd reduction(+ : sum)
            for (long j = 1; j < w; j++) {
                const float d = row[j] - row[j - 1];
                sum += fabsf(d);
                r[j] = sign(d);
            }
            rights += sum;
            sum = 0;
            if (i + 1 < h) {
                #pragma omp simd reduction(+ : sum)
                for (long j = 0; j < w; j++) {
                    const float d = row[j + w] - row[j];
                    sum += fabsf(d);
                    below[j] = sign(d);
                }
            } else memset(below, 0, (size_t)w * 4);
            downs += sum;
            #pragma omp simd
            for (long j = 0; j < w; j++)
                g[j] = across * (r[j] - r[j + 1]) + down * (above[j] - below[j]) +
                       both * (top[j + 1] + next[j + 1] + here[j] + here[j + 2] - 4 * here[j + 1]);
            float *swap = above;
            above = below;
            below = swap;
        }
        sums[p] = (float)(rights * across + downs * down + laplaces * both);
        free(memory);
    }
    return failed;
}
