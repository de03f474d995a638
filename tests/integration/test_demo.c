/* The demo, small: kafka_wordcount on librdkafka's mock broker, five SIGKILLs (process death) while
 * data flows, an independent recount. */
#include <stdio.h>
#include <stdlib.h>

int main(void)
{
    /* A fixed command of our own; BUILD is inherited, or the default. */
    static const char demo[] = "TEXT=/usr/share/common-licenses/GPL-3 KILLS=5 SEED=7 scripts/demo";
    int rc = system(demo); /* NOLINT(cert-env33-c) */

    if (rc != 0) {
        (void)fprintf(stderr, "scripts/demo ended with %d\n", rc);
    }
    (void)printf("%d passed, %d failed\n", rc == 0, rc != 0);
    return rc == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
