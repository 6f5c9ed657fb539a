/* SPDX-License-Identifier: MIT */
#include "base/cipher.h"

#include "base/fail.h"

#include <inttypes.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define NONCE_BYTES 12

struct csc_cipher {
    const csc_keyring *ring;
    EVP_CIPHER *gcm;
    EVP_CIPHER_CTX *context;
    EVP_MAC *hmac;
    EVP_MAC_CTX *hmac_context;
    bool opens;
    uint64_t chunk;          /* the one that `filled` counts bytes of */
    size_t filled;           /* 0: not begun */
    uint8_t *tags_out;       /* of `chunk`, when sealing */
    const uint8_t *tags_in;  /* of `chunk`, when opening */
    uint64_t failing_offset; /* of the record, for texts */
};

static int openssl_failed(void)
{
    /* Keys and lengths are right, the algorithms were there: only memory can be missing. */
    return csc_fail(CASCADE_ENOMEM, "OpenSSL fails to encrypt or decrypt");
}

int csc_cipher_create(const csc_keyring *ring, csc_cipher **cipher)
{
    csc_cipher *made = calloc(1, sizeof *made);

    if (!made)
        return csc_fail(CASCADE_ENOMEM, "no memory for a cipher");
    made->ring = ring;
    made->gcm = EVP_CIPHER_fetch(NULL, "AES-256-GCM", NULL);
    made->hmac = EVP_MAC_fetch(NULL, OSSL_MAC_NAME_HMAC, NULL);
    if (!made->gcm || !made->hmac) {
        csc_cipher_destroy(&made);
        return csc_fail(CASCADE_ENOTSUP, "OpenSSL, as it is configured here, has no AES-256-GCM");
    }
    made->context = EVP_CIPHER_CTX_new();
    made->hmac_context = EVP_MAC_CTX_new(made->hmac);
    if (!made->context || !made->hmac_context) {
        csc_cipher_destroy(&made);
        return csc_fail(CASCADE_ENOMEM, "no memory for a cipher");
    }
    *cipher = made;
    return 0;
}

void csc_cipher_destroy(csc_cipher **cipher)
{
    csc_cipher *leaving = *cipher;

    *cipher = NULL;
    if (!leaving)
        return;
    EVP_CIPHER_CTX_free(leaving->context); /* wipes the key in it; so does the next */
    EVP_MAC_CTX_free(leaving->hmac_context);
    EVP_CIPHER_free(leaving->gcm);
    EVP_MAC_free(leaving->hmac);
    free(leaving);
}

int csc_cipher_salt(uint8_t salt[CSC_CIPHER_SALT_BYTES])
{
    return getrandom(salt, CSC_CIPHER_SALT_BYTES, 0) == CSC_CIPHER_SALT_BYTES
               ? 0
               : csc_fail(CASCADE_EIO, "the system gives no random bytes");
}

/* ---- the record's key ------------------------------------------------------------------------- */

static uint8_t *append(uint8_t *to, const void *from, size_t bytes)
{
    memcpy(to, from, bytes);
    return to + bytes;
}

/* HMAC-SHA256 under the key with its id. */
static int derive(csc_cipher *c, const csc_cipher_record *record, uint8_t key[CSC_KEY_BYTES])
{
    static const char label[] = "cascade record"; /* with its zero */
    static char digest_name[] = "SHA256";
    const OSSL_PARAM parameters[] = {
        OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest_name, 0), OSSL_PARAM_END};
    uint8_t message[sizeof label + sizeof *record];
    const uint8_t *master = csc_keyring_find(c->ring, record->key_id);
    uint8_t *end = message;
    size_t bytes = 0;

    if (!master)
        return csc_fail(CASCADE_ENOKEY,
                        "a record is encrypted with key %016" PRIx64
                        ", which is not among the keys given",
                        record->key_id);
    end = append(end, label, sizeof label);
    end = append(end, record->salt, sizeof record->salt);
    end = append(end, &record->generation, sizeof record->generation);
    end = append(end, &record->offset, sizeof record->offset);
    end = append(end, record->digest, sizeof record->digest);
    end = append(end, &record->tenant, sizeof record->tenant);
    end = append(end, &record->k_bytes, sizeof record->k_bytes);
    end = append(end, &record->v_bytes, sizeof record->v_bytes);
    if (!EVP_MAC_init(c->hmac_context, master, CSC_KEY_BYTES, parameters) ||
        !EVP_MAC_update(c->hmac_context, message, (size_t)(end - message)) ||
        !EVP_MAC_final(c->hmac_context, key, &bytes, CSC_KEY_BYTES) || bytes != CSC_KEY_BYTES)
        return openssl_failed();
    return 0;
}

static int begin(csc_cipher *c, const csc_cipher_record *record, bool opens)
{
    uint8_t key[CSC_KEY_BYTES];
    int code = derive(c, record, key);

    c->opens = opens;
    c->filled = 0;
    c->failing_offset = record->offset;
    if (code == 0 && !EVP_CipherInit_ex2(c->context, c->gcm, key, NULL, !opens, NULL))
        code = openssl_failed();
    OPENSSL_cleanse(key, sizeof key);
    return code;
}

int csc_cipher_begin_seal(csc_cipher *cipher, const csc_cipher_record *record, uint64_t first,
                          uint8_t *tags)
{
    cipher->chunk = first;
    cipher->tags_out = tags;
    return begin(cipher, record, false);
}

int csc_cipher_begin_open(csc_cipher *cipher, const csc_cipher_record *record, uint64_t first,
                          const uint8_t *tags)
{
    cipher->chunk = first;
    cipher->tags_in = tags;
    return begin(cipher, record, true);
}

/* ---- chunks ----------------------------------------------------------------------------------- */

/* The key is used for this record alone, so that the chunk's number is a nonce that never comes again.
 */
static int begin_chunk(csc_cipher *c)
{
    uint8_t nonce[NONCE_BYTES] = {0};

    memcpy(nonce, &c->chunk, sizeof c->chunk);
    return EVP_CipherInit_ex2(c->context, NULL, NULL, nonce, -1, NULL) ? 0 : openssl_failed();
}

static int end_chunk(csc_cipher *c)
{
    uint8_t tag[CSC_CIPHER_TAG_BYTES];
    uint8_t nothing[1];
    int bytes;

    c->filled = 0;
    if (c->opens) {
        memcpy(tag, c->tags_in, sizeof tag);
        c->tags_in += sizeof tag;
        if (!EVP_CIPHER_CTX_ctrl(c->context, EVP_CTRL_AEAD_SET_TAG, sizeof tag, tag))
            return openssl_failed();
        if (!EVP_CipherFinal_ex(c->context, nothing, &bytes))
            return csc_fail(CASCADE_ECORRUPT,
                            "chunk %" PRIu64 " of the record at offset %" PRIu64
                            " is not what was encrypted there",
                            c->chunk, c->failing_offset);
    } else {
        if (!EVP_CipherFinal_ex(c->context, nothing, &bytes) ||
            !EVP_CIPHER_CTX_ctrl(c->context, EVP_CTRL_AEAD_GET_TAG, sizeof tag, tag))
            return openssl_failed();
        memcpy(c->tags_out, tag, sizeof tag);
        c->tags_out += sizeof tag;
    }
    c->chunk++;
    return 0;
}

int csc_cipher_feed(csc_cipher *cipher, const void *from, void *to, size_t bytes)
{
    const uint8_t *in = from;
    uint8_t *out = to;
    int code = 0;

    while (bytes > 0 && code == 0) {
        size_t room = CSC_CIPHER_CHUNK_BYTES - cipher->filled;
        size_t take = bytes < room ? bytes : room;
        int done;

        if (cipher->filled == 0)
            code = begin_chunk(cipher);
        if (code == 0 && !EVP_CipherUpdate(cipher->context, out, &done, in, (int)take))
            code = openssl_failed();
        if (code)
            break;
        cipher->filled += take;
        in += take;
        out += take;
        bytes -= take;
        if (cipher->filled == CSC_CIPHER_CHUNK_BYTES)
            code = end_chunk(cipher);
    }
    return code;
}

int csc_cipher_end(csc_cipher *cipher)
{
    return cipher->filled ? end_chunk(cipher) : 0;
}
