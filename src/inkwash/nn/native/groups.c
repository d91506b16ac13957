/* Group norm for training, forward and backward; groups.py says what is computed. */
#include "common.h"

/* Scale and shift that normalise each channel of one sample x (p, c) plus add (c or NULL) by its group: n = x a + b; from sums in float. */
static void group_moments(const bf16 *x, const bf16 *add, long p, long c, long groups, float eps, float *a, float *b) {
    const long each = c / groups;
    for (long i = 0; i < c; i += 64) {
        __m512 s[4], q[4];
        for (int j = 0; j < 4; j++) s[j] = q[j] = _mm512_setzero_ps();
        for (long r = 0; r < p; r++)
            for (int j = 0; j < 4; j++)
                if (i + 16 * j < c) {
                    const __m512 v = load16(x + r * c + i + 16 * j, part(i + 16 * j, c));
                    s[j] = _mm512_add_ps(s[j], v);
                    q[j] = _mm512_fmadd_ps(v, v, q[j]);
                }
        for (int j = 0; j < 4; j++)
            if (i + 16 * j < c) {
                _mm512_mask_storeu_ps(a + i + 16 * j, part(i + 16 * j, c), s[j]);
                _mm512_mask_storeu_ps(b + i + 16 * j, part(i + 16 * j, c), q[j]);
            }
    }
    for (long g = 0; g < groups; g++) {
        double sum = 0, square = 0;
        for (long i = g * each; i < (g + 1) * each; i++) {
            union { uint32_t u; float f; } t = {.u = add ? (uint32_t)add[i] << 16 : 0};
            const double shift = t.f;
            sum += a[i] + p * shift;
            square += b[i] + 2 * shift * a[i] + p * shift * shift;
        }
        const double mean = sum / (p * each), var = square / (p * each) - mean * mean;
        const float rstd = (float)(1 / __builtin_sqrt((var > 0 ? var : 0) + eps));
        for (long i = g * each; i < (g + 1) * each; i++) {
            union { uint32_t u; float f; } t = {.u = add ? (uint32_t)add[i] << 16 : 0};
            a[i] = rstd;
            b[i] = (float)((t.f - mean) * rstd);
        }
    }
}

/* y = act(group_norm(x + add) gain + bias) for x (batch, p, c), add (batch, c) or NULL, gain and bias (c) float. */
int inkwash_group(const bf16 *x, const bf16 *add, const float *gain, const float *bias, bf16 *y, long batch, long p, long c, long groups, float eps,
                   long act, long threads) {
    #pragma omp parallel for num_threads(threads)
    for (long s = 0; s < batch; s++) {
        float a[c + 16], b[c + 16];
        group_moments(x + s * p * c, add ? add + s * c : NULL, p, c, groups, eps, a, b);
        for (long i = 0; i < c; i++) { a[i] *= gain[i]; b[i] = b[i] * gain[i] + bias[i]; }
        for (long r = s * p; r < (s + 1) * p; r++)
            for (long i = 0; i < c; i += 16) {
                const __mmask16 m = part(i, c);
                const __m512 u = _mm512_fmadd_ps(load16(x + r * c + i, m), _mm512_loadu_ps(a + i), _mm512_loadu_ps(b + i));
                store16(y + r * c + i, m, act ? _mm512_mul_ps(u, sigmoid16(u)) : u);
            }
    }
    return 0;
}

/* Backward of inkwash_group: dx (batch, p, c) plus extra (or NULL); per sample dgain and dbias (batch, c), and dadd (batch, c) or NULL, float. */
int inkwash_group_back(const bf16 *dy, const bf16 *x, const bf16 *add, const float *gain, const float *bias, const bf16 *extra, bf16 *dx,
                        float *dgain, float *dbias, float *dadd, long batch, long p, long c, long groups, float eps, long act, long threads) {
    #pragma omp parallel for num_threads(threads)
    for (long s = 0; s < batch; s++) {
        float a[c + 16], b[c + 16], m1[c + 16], m2[c + 16], dg[c + 16], db[c + 16], w[c + 16], v[c + 16];
        const long each = c / groups;
        const __m512 one = _mm512_set1_ps(1);
        group_moments(x + s * p * c, add ? add + s * c : NULL, p, c, groups, eps, a, b);
        memcpy(w, gain, (size_t)c * 4);
        memcpy(v, bias, (size_t)c * 4);
        memset(dg, 0, sizeof dg);
        memset(db, 0, sizeof db);
        for (int pass = 0; pass < 2; pass++) {
            for (long i = 0; i < c; i += 16) {
                const __mmask16 m = part(i, c);
                const __m512 ai = _mm512_loadu_ps(a + i), bi = _mm512_loadu_ps(b + i), wi = _mm512_loadu_ps(w + i), vi = _mm512_loadu_ps(v + i);
                __m512 sg = _mm512_setzero_ps(), sb = sg, c1 = _mm512_loadu_ps(m1 + i), c2 = _mm512_loadu_ps(m2 + i);
                for (long r = s * p; r < (s + 1) * p; r++) {
                    const __m512 n = _mm512_fmadd_ps(load16(x + r * c + i, m), ai, bi);
                    __m512 du = load16(dy + r * c + i, m);
                    if (act) {
                        const __m512 u = _mm512_fmadd_ps(n, wi, vi), q = sigmoid16(u);
                        du = _mm512_mul_ps(_mm512_mul_ps(du, q), _mm512_fmadd_ps(u, _mm512_sub_ps(one, q), one));
                    }
                    if (!pass) {
                        sg = _mm512_fmadd_ps(du, n, sg);
                        sb = _mm512_add_ps(sb, du);
                    } else {
                        __m512 d = _mm512_mul_ps(ai, _mm512_fnmadd_ps(n, c2, _mm512_fmsub_ps(du, wi, c1)));
                        sb = _mm512_add_ps(sb, d);
                        if (extra) d = _mm512_add_ps(d, load16(extra + r * c + i, m));
                        store16(dx + r * c + i, m, d);
                    }
                }
                if (!pass) { _mm512_mask_storeu_ps(dg + i, m, sg); _mm512_mask_storeu_ps(db + i, m, sb); }
                else if (dadd) _mm512_mask_storeu_ps(dadd + s * c + i, m, sb);
            }
            if (pass) break;
            memcpy(dgain + s * c, dg, (size_t)c * 4);
            memcpy(dbias + s * c, db, (size_t)c * 4);
            for (long g = 0; g < groups; g++) {
                double one_sum = 0, two_sum = 0;
                for (long i = g * each; i < (g + 1) * each; i++) { one_sum += (double)w[i] * db[i]; two_sum += (double)w[i] * dg[i]; }
                for (long i = g * each; i < (g + 1) * each; i++) { m1[i] = (float)(one_sum / (p * each)); m2[i] = (float)(two_sum / (p * each)); }
            }
        }
    }
    return 0;
}
