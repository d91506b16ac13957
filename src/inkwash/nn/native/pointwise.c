/* SiLU and the shuffling of pixels; pointwise.py says what is computed. */
#include "common.h"

enum { CHUNK = 4096 };

/* y = x sigmoid(x) for n numbers. */
int inkwash_silu(const bf16 *x, bf16 *y, long n, long threads) {
    #pragma omp parallel for num_threads(threads)
    for (long start = 0; start < n; start += CHUNK)
        for (long i = start; i < n && i < start + CHUNK; i += 16) {
            const __mmask16 m = part(i, n);
            const __m512 u = load16(x + i, m);
            store16(y + i, m, _mm512_mul_ps(u, sigmoid16(u)));
        }
    return 0;
}

/* dx = dy s (1 + x (1 - s)) with s = sigmoid(x). */
int inkwash_silu_back(const bf16 *dy, const bf16 *x, bf16 *dx, long n, long threads) {
    const __m512 one = _mm512_set1_ps(1);
    #pragma omp parallel for num_threads(threads)
    for (long start = 0; start < n; start += CHUNK)
        for (long i = start; i < n && i < start + CHUNK; i += 16) {
            const __mmask16 m = part(i, n);
            const __m512 u = load16(x + i, m), s = sigmoid16(u);
            store16(dx + i, m, _mm512_mul_ps(_mm512_mul_ps(load16(dy + i, m), s), _mm512_fmadd_ps(u, _mm512_sub_ps(one, s), one)));
        }
    return 0;
}

/* Lanes of 16 x 4 numbers that lie together (`apart` 0) or as 4 x 16 (`apart` 1), in the other order: low and high half of the result. */
static inline void order(int apart, __m512i *low, __m512i *high) {
    uint16_t a[32], b[32];
    for (int i = 0; i < 32; i++) {
        a[i] = (uint16_t)(apart ? i / 4 + i % 4 * 16 : i % 16 * 4 + i / 16);
        b[i] = (uint16_t)(apart ? (i + 32) / 4 + i % 4 * 16 : i % 16 * 4 + i / 16 + 2);
    }
    *low = _mm512_loadu_si512(a);
    *high = _mm512_loadu_si512(b);
}

static inline __m512i beside(const bf16 *a, const bf16 *b) {
    return _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_loadu_si256((const void *)a)), _mm256_loadu_si256((const void *)b), 1);
}

/* many (batch, h, w, 4 d) <-> large (batch, 2 h, 2 w, d): channel 4 c + 2 i + j is channel c of pixel (2 y + i, 2 x + j). d in sixteens. */
int inkwash_shuffle(bf16 *many, bf16 *large, long rows, long w, long d, long back, long threads) {
    __m512i low, high;
    order((int)back, &low, &high);
    #pragma omp parallel for num_threads(threads)
    for (long y = 0; y < rows; y++)
        for (long x = 0; x < w; x++)
            for (long c = 0; c < d; c += 16) {
                bf16 *from = many + (y * w + x) * 4 * d + 4 * c, *top = large + (4 * y * w + 2 * x) * d + c, *bottom = top + 2 * w * d;
                if (back) {
                    const __m512i a = beside(top, top + d), b = beside(bottom, bottom + d);
                    _mm512_storeu_si512(from, _mm512_permutex2var_epi16(a, low, b));
                    _mm512_storeu_si512(from + 32, _mm512_permutex2var_epi16(a, high, b));
                } else {
                    const __m512i a = _mm512_loadu_si512(from), b = _mm512_loadu_si512(from + 32);
                    const __m512i one = _mm512_permutex2var_epi16(a, low, b), two = _mm512_permutex2var_epi16(a, high, b);
                    _mm256_storeu_si256((void *)top, _mm512_castsi512_si256(one));
                    _mm256_storeu_si256((void *)(top + d), _mm512_extracti64x4_epi64(one, 1));
                    _mm256_storeu_si256((void *)bottom, _mm512_castsi512_si256(two));
                    _mm256_storeu_si256((void *)(bottom + d), _mm512_extracti64x4_epi64(two, 1));
                }
            }
    return 0;
}
