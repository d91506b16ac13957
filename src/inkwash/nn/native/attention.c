/* Attention for training, forward and backward; attention.py says what is computed. */
#include "common.h"

static inline long up(long n, long m) { return (n + m - 1) / m * m; }

/* Left operand, copied: rows of `from` (m, k) with stride s -> to (m16, k32), zero padded. */
static void left(const bf16 *from, long s, long m, long k, bf16 *to) {
    const long kp = up(k, 32);
    memset(to, 0, (size_t)(up(m, 16) * kp * 2));
    for (long i = 0; i < m; i++) memcpy(to + i * kp, from + i * s, (size_t)k * 2);
}

/* Left operand, transposed: from (k, m) with stride s -> to (m16, k32), zero padded. */
static void left_t(const bf16 *from, long s, long k, long m, bf16 *to) {
    const long kp = up(k, 32);
    static const bf16 none[16];
    for (long i = 0; i < m; i += 16)
        for (long j = 0; j < kp; j += 32) {
            __m512i r[16];
            for (int t = 0; t < 16; t++) r[t] = pairs(j + 2 * t < k ? from + (j + 2 * t) * s + i : none, j + 2 * t + 1 < k ? from + (j + 2 * t + 1) * s + i : none);
            transpose16(r);
            for (int t = 0; t < 16; t++) _mm512_storeu_si512(to + (i + t) * kp + j, r[t]);
        }
}

/* Right operand: from (k, n) with stride s -> to [n16 / 16][k32 / 2][16] pairs, zero padded. */
static void right(const bf16 *from, long s, long k, long n, bf16 *to) {
    const long kp = up(k, 32);
    for (long c = 0; c < n; c += 16) {
        const __mmask16 m = part(c, n);
        for (long p = 0; p < kp / 2; p++) {
            __m256i a = 2 * p < k ? _mm256_maskz_loadu_epi16(m, from + 2 * p * s + c) : _mm256_setzero_si256();
            __m256i b = 2 * p + 1 < k ? _mm256_maskz_loadu_epi16(m, from + (2 * p + 1) * s + c) : _mm256_setzero_si256();
            _mm512_storeu_si512(to + (c / 16 * kp / 2 + p) * 32,
                                _mm512_or_si512(_mm512_cvtepu16_epi32(a), _mm512_slli_epi32(_mm512_cvtepu16_epi32(b), 16)));
        }
    }
}

/* Right operand, transposed: from (n, k) with stride s -> to [n16 / 16][k32 / 2][16] pairs, zero padded. */
static void right_t(const bf16 *from, long s, long n, long k, bf16 *to) {
    const long kp = up(k, 32);
    for (long c = 0; c < n; c += 16)
        for (long j = 0; j < kp; j += 32) {
            const __mmask32 m = k - j >= 32 ? 0xffffffffu : (1u << (k - j)) - 1;
            __m512i r[16];
            for (int t = 0; t < 16; t++) r[t] = c + t < n ? _mm512_maskz_loadu_epi16(m, from + (c + t) * s + j) : _mm512_setzero_si512();
            transpose16(r);
            for (int t = 0; t < 16; t++) _mm512_storeu_si512(to + (c / 16 * kp / 2 + j / 2 + t) * 32, r[t]);
        }
}

/* out (m16, n16) float = l (m16, k32) r; tiles as configured for k = 32. */
static void multiply(const bf16 *l, const bf16 *r, float *out, long m, long n, long k) {
    const long kp = up(k, 32), np = up(n, 16), mp = up(m, 16);
    for (long i = 0; i < mp; i += 32)
        for (long j = 0; j < np; j += 32) {
            const int two_i = i + 16 < mp, two_j = j + 16 < np;
            _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);
            for (long s = 0; s < kp; s += 32) {
                _tile_loadd(4, l + i * kp + s, kp * 2);
                _tile_loadd(6, r + (j / 16 * kp / 2 + s / 2) * 32, 64);
                _tile_dpbf16ps(0, 4, 6);
                if (two_j) { _tile_loadd(7, r + ((j / 16 + 1) * kp / 2 + s / 2) * 32, 64); _tile_dpbf16ps(1, 4, 7); }
                if (two_i) { _tile_loadd(5, l + (i + 16) * kp + s, kp * 2); _tile_dpbf16ps(2, 5, 6); }
                if (two_i && two_j) _tile_dpbf16ps(3, 5, 7);
            }
            _tile_stored(0, out + i * np + j, np * 4);
            if (two_j) _tile_stored(1, out + i * np + j + 16, np * 4);
            if (two_i) _tile_stored(2, out + (i + 16) * np + j, np * 4);
            if (two_i && two_j) _tile_stored(3, out + (i + 16) * np + j + 16, np * 4);
        }
}

static void save(const float *from, long ld, bf16 *to, long s, long m, long n) {
    for (long i = 0; i < m; i++)
        for (long j = 0; j < n; j += 16) store16(to + i * s + j, part(j, n), _mm512_loadu_ps(from + i * ld + j));
}

/* Rows of scores (t, l16) -> weights in place, 0 where bias is -inf. */
static void softmax(float *p, const float *bias, long t, long l, float scale) {
    const long lp = up(l, 16);
    for (long i = 0; i < t; i++) {
        float *row = p + i * lp;
        __m512 top = _mm512_set1_ps(-1e30f), sum = _mm512_setzero_ps();
        for (long j = 0; j < lp; j += 16) {
            const __m512 a = _mm512_fmadd_ps(_mm512_loadu_ps(row + j), _mm512_set1_ps(scale), _mm512_loadu_ps(bias + j));
            _mm512_storeu_ps(row + j, a);
            top = _mm512_max_ps(top, a);
        }
        const __m512 high = _mm512_set1_ps(_mm512_reduce_max_ps(top));
        for (long j = 0; j < lp; j += 16) {
            const __mmask16 here = _mm512_cmp_ps_mask(_mm512_loadu_ps(bias + j), _mm512_set1_ps(-1e29f), _CMP_GT_OQ);
            const __m512 a = _mm512_maskz_mov_ps(here, expf16(_mm512_max_ps(_mm512_sub_ps(_mm512_loadu_ps(row + j), high), _mm512_set1_ps(-80))));
            _mm512_storeu_ps(row + j, a);
            sum = _mm512_add_ps(sum, a);
        }
        const float total = _mm512_reduce_add_ps(sum);
        const __m512 share = _mm512_set1_ps(total > 0 ? 1 / total : 0);
        for (long j = 0; j < lp; j += 16) _mm512_storeu_ps(row + j, _mm512_mul_ps(_mm512_loadu_ps(row + j), share));
    }
}

/* o = softmax(q k^T scale + mask) v for heads side by side in the channels: q, o (batch, t, heads d), k, v (batch, l, heads d) with strides qs, ks
   of a position; mask (batch, l) bytes, 1 for keys that exist, or NULL. With dy: dq, dk, dv instead, laid out as q, k, v. 1: no memory. */
int inkwash_attend(const bf16 *q, const bf16 *k, const bf16 *v, const uint8_t *mask, bf16 *o, const bf16 *dy, bf16 *dq, bf16 *dk, bf16 *dv,
                   long batch, long heads, long t, long l, long d, long qs, long ks, float scale, long threads) {
    const long tp = up(t, 32), lp = up(l, 32), dp = up(d, 32), big = tp > lp ? tp : lp, side = big > dp ? big : dp;
    int failed = 0;
    #pragma omp parallel num_threads(threads)
    {
        const size_t half = (size_t)(big * side), size = half * 2 * 4 + half * 4 * 2 + (size_t)lp * 4;
        uint8_t *memory = aligned_alloc(64, (size + 63) / 64 * 64);
        if (!memory) {
            #pragma omp atomic write
            failed = 1;
        }
        configure(32);
        #pragma omp for collapse(2)
        for (long b = 0; b < batch; b++)
            for (long h = 0; h < heads; h++) {
                if (!memory) continue;
                float *p = (float *)memory, *x = p + half, *bias = x + half;
                bf16 *a = (bf16 *)(bias + lp), *r = a + half, *w = r + half, *z = w + half;
                const long l16 = up(l, 16), d16 = up(d, 16);
                const bf16 *qh = q + b * t * qs + h * d, *kh = k + b * l * ks + h * d, *vh = v + b * l * ks + h * d;
                for (long j = 0; j < l16; j++) bias[j] = j < l && (!mask || mask[b * l + j]) ? 0 : -1e30f;
                left(qh, qs, t, d, a);
                right_t(kh, ks, l, d, r);
                multiply(a, r, p, t, l, d);
                softmax(p, bias, t, l, scale);
                memset(w, 0, (size_t)(tp * lp * 2));
                save(p, l16, w, lp, t, l);                                              /* weights (t, l32) */
                if (!dy) {
                    right(vh, ks, l, d, r);
                    multiply(w, r, x, t, d, l);
                    save(x, d16, o + b * t * heads * d + h * d, heads * d, t, d);
                    continue;
                }
                const bf16 *gh = dy + b * t * heads * d + h * d;
                left_t(w, lp, t, l16, a);
                right(gh, heads * d, t, d, r);
                multiply(a, r, x, l, d, t);
                save(x, d16, dv + b * l * ks + h * d, ks, l, d);
                left(gh, heads * d, t, d, a);
                right_t(vh, ks, l, d, r);
                multiply(a, r, x, t, l, d);                                             /* gradient of the weights (t, l16) */
                for (long i = 0; i < t; i++) {
                    __m512 s = _mm512_setzero_ps();
                    for (long j = 0; j < l16; j += 16) s = _mm512_fmadd_ps(_mm512_loadu_ps(p + i * l16 + j), _mm512_loadu_ps(x + i * l16 + j), s);
                    const __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(s));
                    for (long j = 0; j < l16; j += 16) {
                        const __m512 g = _mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(x + i * l16 + j), mean), _mm512_loadu_ps(p + i * l16 + j));
                        store16(z + i * lp + j, 0xffff, _mm512_mul_ps(g, _mm512_set1_ps(scale)));
                    }
                    if (l16 < lp) memset(z + i * lp + l16, 0, (size_t)(lp - l16) * 2);
                }
                for (long i = t; i < up(t, 16); i++) memset(z + i * lp, 0, (size_t)lp * 2);
                right(kh, ks, l, d, r);
                multiply(z, r, x, t, d, l);
                save(x, d16, dq + b * t * qs + h * d, qs, t, d);
                left_t(z, lp, t, l16, a);
                right(qh, qs, t, d, r);
                multiply(a, r, x, l, d, t);
                save(x, d16, dk + b * l * ks + h * d, ks, l, d);
            }
        _tile_release();
        free(memory);
    }
    return failed;
}
