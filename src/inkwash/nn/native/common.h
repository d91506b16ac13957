/* What the kernels share: bfloat16 in and out of registers, e^x, the logistic function, tiles. Every kernel's last argument is the number of
   threads, which changes no result, and every kernel returns 0, or 1 when there is no memory. */
#ifndef INKWASH_NATIVE_H
#define INKWASH_NATIVE_H
#include <immintrin.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef uint16_t bf16;

/* e^x to 1e-6. */
static inline __m512 expf16(__m512 x) {
    __m512 t = _mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), n = _mm512_roundscale_ps(t, 0), f = _mm512_sub_ps(t, n);
    __m512 p = _mm512_set1_ps(1.8775767e-3f);
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(8.9893397e-3f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(5.5826318e-2f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(2.4015361e-1f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(6.9315308e-1f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(9.9999994e-1f));
    return _mm512_scalef_ps(p, n);
}

static inline __m512 sigmoid16(__m512 x) {
    __m512 d = _mm512_add_ps(_mm512_set1_ps(1), expf16(_mm512_min_ps(_mm512_sub_ps(_mm512_setzero_ps(), x), _mm512_set1_ps(80))));
    __m512 r = _mm512_rcp14_ps(d);
    return _mm512_mul_ps(r, _mm512_fnmadd_ps(d, r, _mm512_set1_ps(2)));
}

static inline __mmask16 part(long c, long end) { return end - c >= 16 ? 0xffff : (__mmask16)((1u << (end - c)) - 1); }

static inline __m512 load16(const bf16 *p, __mmask16 m) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(m, p)), 16));
}

static inline void store16(bf16 *p, __mmask16 m, __m512 x) { _mm256_mask_storeu_epi16(p, m, (__m256i)_mm512_cvtneps_pbh(x)); }

typedef struct { uint8_t palette, start, zero[14]; uint16_t colsb[16]; uint8_t rows[16]; } Config;

/* Tiles for sums of products over k = 16 or 32 numbers a time. */
static inline void configure(int k) {
    Config c;
    memset(&c, 0, sizeof c);
    c.palette = 1;
    for (int t = 0; t < 4; t++) { c.rows[t] = 16; c.colsb[t] = 64; }               /* sums: 16 x 16 float */
    for (int t = 4; t < 6; t++) { c.rows[t] = 16; c.colsb[t] = (uint16_t)(2 * k); } /* left: 16 x k */
    for (int t = 6; t < 8; t++) { c.rows[t] = (uint8_t)(k / 2); c.colsb[t] = 64; }  /* right: k / 2 pairs x 16 */
    _tile_loadconfig(&c);
}

/* Two rows of 16 numbers -> 16 pairs. */
static inline __m512i pairs(const bf16 *a, const bf16 *b) {
    __m512i lo = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)a));
    __m512i hi = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)b));
    return _mm512_or_si512(lo, _mm512_slli_epi32(hi, 16));
}

static inline void transpose16(__m512i r[16]) {
    __m512i t[16];
    for (int i = 0; i < 8; i++) { t[2*i] = _mm512_unpacklo_epi32(r[2*i], r[2*i+1]); t[2*i+1] = _mm512_unpackhi_epi32(r[2*i], r[2*i+1]); }
    for (int i = 0; i < 4; i++) {
        r[4*i] = _mm512_unpacklo_epi64(t[4*i], t[4*i+2]); r[4*i+1] = _mm512_unpackhi_epi64(t[4*i], t[4*i+2]);
        r[4*i+2] = _mm512_unpacklo_epi64(t[4*i+1], t[4*i+3]); r[4*i+3] = _mm512_unpackhi_epi64(t[4*i+1], t[4*i+3]);
    }
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_i32x4(r[i], r[i+4], 0x88); t[i+4] = _mm512_shuffle_i32x4(r[i], r[i+4], 0xdd);
        t[i+8] = _mm512_shuffle_i32x4(r[i+8], r[i+12], 0x88); t[i+12] = _mm512_shuffle_i32x4(r[i+8], r[i+12], 0xdd);
    }
    for (int i = 0; i < 8; i++) { r[i] = _mm512_shuffle_i32x4(t[i], t[i+8], 0x88); r[i+8] = _mm512_shuffle_i32x4(t[i], t[i+8], 0xdd); }
}

#endif
