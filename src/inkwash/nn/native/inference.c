/* Attention, group norm and gated GELU for inference; inference.py says what is computed. */
#include "common.h"

enum { ROWS = 32, KEYS = 256 };                                    /* queries and keys of one block */

static inline __mmask32 lanes32(long n) { return n >= 32 ? 0xffffffffu : n <= 0 ? 0 : (1u << n) - 1; }
static inline __mmask16 lanes16(long n) { return n >= 16 ? 0xffff : n <= 0 ? 0 : (__mmask16)((1u << n) - 1); }

/* Keys (length, d), row stride `stride` -> tiles of 16 keys x 32 dims, pairs of dims innermost: the right side of Q K^T. */
static void pack_keys(const bf16 *k, bf16 *out, long length, long padded, long d, long dk, long stride) {
    for (long key = 0; key < padded; key += 16)
        for (long dim = 0; dim < dk; dim += 32, out += 512) {
            __m512i r[16];
            for (int i = 0; i < 16; i++)
                r[i] = key + i < length ? _mm512_maskz_loadu_epi16(lanes32(d - dim), k + (key + i) * stride + dim) : _mm512_setzero_si512();
            transpose16(r);
            for (int i = 0; i < 16; i++) _mm512_storeu_si512(out + 32 * i, r[i]);
        }
}

/* Values (length, d) -> tiles of 32 keys x 16 dims, pairs of keys innermost, all dims of 32 keys together: the right side of P V. */
static void pack_values(const bf16 *v, bf16 *out, long length, long padded, long d, long dv, long stride) {
    for (long key = 0; key < padded; key += 32)
        for (long dim = 0; dim < dv; dim += 16, out += 512)
            for (int i = 0; i < 16; i++) {
                const long a = key + 2 * i;
                const __mmask16 m = lanes16(d - dim);
                __m512i lo = a < length ? _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(m, v + a * stride + dim)) : _mm512_setzero_si512();
                __m512i hi = a + 1 < length ? _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(m, v + (a + 1) * stride + dim)) : _mm512_setzero_si512();
                _mm512_storeu_si512(out + 32 * i, _mm512_or_si512(lo, _mm512_slli_epi32(hi, 16)));
            }
}

/* 2^x for x <= 0, to 1e-4: enough for weights that are rounded to bfloat16. */
static inline __m512 exp2_16(__m512 x) {
    const __m512 n = _mm512_roundscale_ps(x, 0), f = _mm512_sub_ps(x, n);
    __m512 p = _mm512_set1_ps(5.5171656e-2f);
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(2.4261112e-1f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(6.9326099e-1f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(9.9992807e-1f));
    return _mm512_scalef_ps(p, n);
}

/* 32 queries of one head against all its keys. q (32, dk) is packed; s, p, o are scratch; out has row stride `stride`. */
static void block(const bf16 *q, const bf16 *kt, const bf16 *vt, bf16 *out, long rows, long length, long padded, long d, long dk, long dv,
                  long stride, float scale, float *s, bf16 *p, float *o) {
    float top[ROWS], sum[ROWS];
    for (int r = 0; r < ROWS; r++) { top[r] = -1e30f; sum[r] = 0; }
    memset(o, 0, sizeof(float) * ROWS * dv);
    for (long start = 0; start < padded; start += KEYS) {
        const long keys = padded - start < KEYS ? padded - start : KEYS, real = length - start < keys ? length - start : keys;
        for (long key = 0; key < keys; key += 32) {                /* s = q k^T */
            const bf16 *b = kt + (start + key) * dk;
            _tile_zero(0); _tile_zero(1); _tile_zero(2); _tile_zero(3);
            for (long dim = 0; dim < dk; dim += 32) {
                _tile_loadd(4, q + dim, dk * 2); _tile_loadd(5, q + 16 * dk + dim, dk * 2);
                _tile_loadd(6, b + dim * 16, 64); _tile_loadd(7, b + dk * 16 + dim * 16, 64);
                _tile_dpbf16ps(0, 4, 6); _tile_dpbf16ps(1, 4, 7); _tile_dpbf16ps(2, 5, 6); _tile_dpbf16ps(3, 5, 7);
            }
            _tile_stored(0, s + key, KEYS * 4); _tile_stored(1, s + key + 16, KEYS * 4);
            _tile_stored(2, s + 16 * KEYS + key, KEYS * 4); _tile_stored(3, s + 16 * KEYS + key + 16, KEYS * 4);
        }
        for (long r = 0; r < ROWS; r++) {                          /* p = 2^(scale s - top), its sum, and o in units of the new top */
            const float *row = s + r * KEYS;
            __m512 m = _mm512_set1_ps(-1e30f), m2 = m, t = _mm512_setzero_ps(), t2 = t;
            long i = 0;
            for (; i + 32 <= real; i += 32) { m = _mm512_max_ps(m, _mm512_loadu_ps(row + i)); m2 = _mm512_max_ps(m2, _mm512_loadu_ps(row + i + 16)); }
            for (; i < real; i += 16) m = _mm512_mask_max_ps(m, lanes16(real - i), m, _mm512_loadu_ps(row + i));
            const float high = _mm512_reduce_max_ps(_mm512_max_ps(m, m2)) * scale, now = high > top[r] ? high : top[r];
            const __m512 c = _mm512_set1_ps(scale), off = _mm512_set1_ps(-now);
            for (i = 0; i + 32 <= real; i += 32) {
                const __m512 a = exp2_16(_mm512_fmadd_ps(_mm512_loadu_ps(row + i), c, off)), b = exp2_16(_mm512_fmadd_ps(_mm512_loadu_ps(row + i + 16), c, off));
                t = _mm512_add_ps(t, a); t2 = _mm512_add_ps(t2, b);
                _mm512_storeu_si512(p + r * KEYS + i, (__m512i)_mm512_cvtne2ps_pbh(b, a));
            }
            for (; i < keys; i += 16) {
                const __m512 a = _mm512_maskz_mov_ps(lanes16(real - i), exp2_16(_mm512_fmadd_ps(_mm512_loadu_ps(row + i), c, off)));
                t = _mm512_add_ps(t, a);
                _mm256_storeu_si256((void *)(p + r * KEYS + i), (__m256i)_mm512_cvtneps_pbh(a));
            }
            const float part = _mm512_reduce_add_ps(_mm512_add_ps(t, t2));
            if (now != top[r] && start > 0) {
                const float shrink = __builtin_exp2f(top[r] - now);
                const __m512 f = _mm512_set1_ps(shrink);
                sum[r] *= shrink;
                for (long j = 0; j < dv; j += 16) _mm512_storeu_ps(o + r * dv + j, _mm512_mul_ps(_mm512_loadu_ps(o + r * dv + j), f));
            }
            sum[r] += part;
            top[r] = now;
        }
        for (long dim = 0; dim < dv; dim += 32) {                  /* o += p v */
            const int two = dim + 16 < dv;
            const bf16 *b = vt + start * dv + dim * 32;
            _tile_loadd(0, o + dim, dv * 4); _tile_loadd(2, o + 16 * dv + dim, dv * 4);
            if (two) { _tile_loadd(1, o + dim + 16, dv * 4); _tile_loadd(3, o + 16 * dv + dim + 16, dv * 4); }
            for (long key = 0; key < keys; key += 32, b += 32 * dv) {
                _tile_loadd(4, p + key, KEYS * 2); _tile_loadd(5, p + 16 * KEYS + key, KEYS * 2); _tile_loadd(6, b, 64);
                _tile_dpbf16ps(0, 4, 6); _tile_dpbf16ps(2, 5, 6);
                if (two) { _tile_loadd(7, b + 512, 64); _tile_dpbf16ps(1, 4, 7); _tile_dpbf16ps(3, 5, 7); }
            }
            _tile_stored(0, o + dim, dv * 4); _tile_stored(2, o + 16 * dv + dim, dv * 4);
            if (two) { _tile_stored(1, o + dim + 16, dv * 4); _tile_stored(3, o + 16 * dv + dim + 16, dv * 4); }
        }
    }
    for (long r = 0; r < rows; r++) {
        const __m512 f = _mm512_set1_ps(1 / sum[r]);
        for (long j = 0; j < d; j += 16)
            _mm256_mask_storeu_epi16(out + r * stride + j, lanes16(d - j), (__m256i)_mm512_cvtneps_pbh(_mm512_mul_ps(_mm512_loadu_ps(o + r * dv + j), f)));
    }
}

/* out (B, T, N d) = softmax(q k^T scale / log2 e) v. Rows of q, k, v, out lie qs, ks, ks, N d apart, their samples T or L rows; scale includes log2 e. */
int inkwash_attention(const bf16 *q, const bf16 *k, const bf16 *v, bf16 *out, long batch, long queries, long length, long heads, long d,
                      long qs, long ks, float scale, long threads) {
    const long dk = (d + 31) / 32 * 32, dv = (d + 15) / 16 * 16, padded = (length + 31) / 32 * 32, blocks = (queries + ROWS - 1) / ROWS;
    bf16 *pack = aligned_alloc(64, (size_t)batch * heads * padded * (dk + dv) * 2);
    if (!pack) return 1;
    int failed = 0;
    #pragma omp parallel num_threads(threads)
    {
        #pragma omp for
        for (long h = 0; h < batch * heads; h++) {
            const long where = h / heads * length * ks + h % heads * d;
            bf16 *kt = pack + h * padded * (dk + dv);
            pack_keys(k + where, kt, length, padded, d, dk, ks);
            pack_values(v + where, kt + padded * dk, length, padded, d, dv, ks);
        }
        char *scratch = aligned_alloc(64, ROWS * KEYS * 6 + ROWS * (dv * 4 + dk * 2));
        if (!scratch) {
            #pragma omp atomic write
            failed = 1;
        }
        configure(32);
        float *s = (float *)scratch, *o = s + ROWS * KEYS;
        bf16 *p = (bf16 *)(o + ROWS * dv), *left = p + ROWS * KEYS;
        #pragma omp for
        for (long b = 0; b < batch * heads * blocks; b++) {
            if (!scratch) continue;
            const long h = b / blocks, first = b % blocks * ROWS, rows = queries - first < ROWS ? queries - first : ROWS;
            const bf16 *from = q + (h / heads * queries + first) * qs + h % heads * d;
            for (long r = 0; r < ROWS; r++)
                for (long j = 0; j < dk; j += 32)
                    _mm512_storeu_si512(left + r * dk + j, r < rows ? _mm512_maskz_loadu_epi16(lanes32(d - j), from + r * qs + j) : _mm512_setzero_si512());
            const bf16 *kt = pack + h * padded * (dk + dv);
            block(left, kt, kt + padded * dk, out + (h / heads * queries + first) * heads * d + h % heads * d, rows, length, padded, d, dk, dv,
                  heads * d, scale, s, p, o);
        }
        _tile_release();
        free(scratch);
    }
    free(pack);
    return failed;
}

/* e^x for x <= 80, to 1e-4. */
static inline __m512 exp16(__m512 x) { return exp2_16(_mm512_mul_ps(_mm512_max_ps(x, _mm512_set1_ps(-126)), _mm512_set1_ps(1.44269504f))); }

/* 1 / x for x > 0, one step of Newton after the table. */
static inline __m512 over(__m512 x) {
    const __m512 r = _mm512_rcp14_ps(x);
    return _mm512_mul_ps(r, _mm512_fnmadd_ps(x, r, _mm512_set1_ps(2)));
}

/* y = act((x + add - mean) / std * weight + bias) per group of channels; x, y (batch, per, c), add (batch, c) or NULL, act 1 is SiLU. */
int inkwash_group_norm(const bf16 *x, const bf16 *add, const bf16 *weight, const bf16 *bias, bf16 *y, long batch, long per, long c, long groups,
                       float eps, long act, long threads) {
    const long cs = (c + 15) / 16 * 16, chunks = per < 64 ? 1 : 16, width = c / groups;
    float *sums = aligned_alloc(64, (size_t)batch * (chunks + 1) * 2 * cs * 4);
    if (!sums) return 1;
    #pragma omp parallel num_threads(threads)
    {
        #pragma omp for
        for (long b = 0; b < batch * chunks; b++) {
            const long sample = b / chunks, first = b % chunks * per / chunks, last = (b % chunks + 1) * per / chunks;
            float *s = sums + b * 2 * cs, *q = s + cs;
            memset(s, 0, 2 * cs * 4);
            for (long r = first; r < last; r++)
                for (long i = 0; i < c; i += 16) {
                    const __mmask16 m = lanes16(c - i);
                    __m512 a = load16(x + (sample * per + r) * c + i, m);
                    if (add) a = _mm512_add_ps(a, load16(add + sample * c + i, m));
                    _mm512_store_ps(s + i, _mm512_add_ps(_mm512_load_ps(s + i), a));
                    _mm512_store_ps(q + i, _mm512_fmadd_ps(a, a, _mm512_load_ps(q + i)));
                }
        }
        #pragma omp for
        for (long b = 0; b < batch * groups; b++) {                /* y = x gain + lift, per channel */
            const long sample = b / groups, first = b % groups * width;
            float *gain = sums + (batch * chunks + sample) * 2 * cs, *lift = gain + cs;
            double s = 0, q = 0;
            for (long k = 0; k < chunks; k++)
                for (long i = first; i < first + width; i++) {
                    const float *part = sums + (sample * chunks + k) * 2 * cs;
                    s += part[i];
                    q += part[cs + i];
                }
            const double n = (double)per * width, mean = s / n, var = q / n - mean * mean, r = 1 / __builtin_sqrt((var > 0 ? var : 0) + eps);
            for (long i = first; i < first + width; i++) {
                union { uint32_t i; float f; } w = {(uint32_t)weight[i] << 16}, z = {(uint32_t)bias[i] << 16}, e = {add ? (uint32_t)add[sample * c + i] << 16 : 0};
                gain[i] = (float)(w.f * r);
                lift[i] = (float)(z.f + (e.f - mean) * w.f * r);
            }
        }
        #pragma omp for
        for (long r = 0; r < batch * per; r++) {
            const float *gain = sums + (batch * chunks + r / per) * 2 * cs, *lift = gain + cs;
            for (long i = 0; i < c; i += 16) {
                const __mmask16 m = lanes16(c - i);
                __m512 u = _mm512_fmadd_ps(load16(x + r * c + i, m), _mm512_load_ps(gain + i), _mm512_load_ps(lift + i));
                if (act) u = _mm512_mul_ps(u, over(_mm512_add_ps(_mm512_set1_ps(1), exp16(_mm512_min_ps(_mm512_sub_ps(_mm512_setzero_ps(), u), _mm512_set1_ps(80))))));
                store16(y + r * c + i, m, u);
            }
        }
    }
    free(sums);
    return 0;
}

/* y (rows, n) = a gelu(b), (a, b) the halves of x (rows, 2 n); erf by Abramowitz and Stegun 7.1.26. */
int inkwash_geglu(const bf16 *x, bf16 *y, long rows, long n, long threads) {
    const __m512 one = _mm512_set1_ps(1), half = _mm512_set1_ps(0.5f), sign = _mm512_set1_ps(-0.0f);
    #pragma omp parallel for num_threads(threads)
    for (long r = 0; r < rows; r++)
        for (long i = 0; i < n; i += 16) {
            const __mmask16 m = lanes16(n - i);
            const __m512 a = load16(x + r * 2 * n + i, m), b = load16(x + r * 2 * n + n + i, m);
            const __m512 z = _mm512_mul_ps(_mm512_andnot_ps(sign, b), _mm512_set1_ps(0.70710678f));
            const __m512 t = over(_mm512_fmadd_ps(z, _mm512_set1_ps(0.3275911f), one));
            __m512 p = _mm512_set1_ps(1.061405429f);
            p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(-1.453152027f));
            p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(1.421413741f));
            p = _mm512_fmadd_ps(p, t, _mm512_set1_ps(-0.284496736f));
            p = _mm512_mul_ps(_mm512_fmadd_ps(p, t, _mm512_set1_ps(0.254829592f)), t);
            __m512 e = _mm512_fnmadd_ps(p, exp16(_mm512_sub_ps(_mm512_setzero_ps(), _mm512_mul_ps(z, z))), one);   /* erf |b / sqrt 2| */
            e = _mm512_or_ps(e, _mm512_and_ps(sign, b));
            store16(y + r * n + i, m, _mm512_mul_ps(a, _mm512_mul_ps(_mm512_mul_ps(b, half), _mm512_add_ps(one, e))));
        }
    return 0;
}
