/* Identities as text: 32 lower-case hex digits, no dashes. Upper case is read as well. */
#include "base/base.h"

static int digit_value(char digit)
{
    if (digit >= '0' && digit <= '9') {
        return digit - '0';
    }
    if (digit >= 'a' && digit <= 'f') {
        return digit - 'a' + 10;
    }
    if (digit >= 'A' && digit <= 'F') {
        return digit - 'A' + 10;
    }
    return -1;
}

char *uuid_format(const struct uuid *u, char out[UUID_TEXT])
{
    static const char digits[] = "0123456789abcdef";

    for (size_t i = 0; i < sizeof u->b; i++) {
        out[2 * i] = digits[u->b[i] >> 4];
        out[2 * i + 1] = digits[u->b[i] & 15];
    }
    out[UUID_TEXT - 1] = '\0';
    return out;
}

bool uuid_parse(const char *s, size_t len, struct uuid *out)
{
    struct uuid u = {{0}};

    if (len != UUID_TEXT - 1) {
        return false;
    }
    for (size_t i = 0; i < sizeof u.b; i++) {
        int high = digit_value(s[2 * i]);
        int low = digit_value(s[2 * i + 1]);

        if (high < 0 || low < 0) {
            return false;
        }
        u.b[i] = (uint8_t)(high << 4 | low);
    }
    *out = u;
    return true;
}
