import java.net.URI;
import java.net.URLDecoder;
import java.nio.charset.StandardCharsets;
import java.time.Instant;
import java.time.ZoneOffset;
import java.time.format.DateTimeFormatter;
import java.util.Base64;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import javax.security.auth.callback.Callback;
import javax.security.auth.callback.UnsupportedCallbackException;
import javax.security.auth.login.AppConfigurationEntry;
import org.apache.kafka.common.security.auth.AuthenticateCallbackHandler;
import org.apache.kafka.common.security.oauthbearer.OAuthBearerExtensionsValidatorCallback;
import org.apache.kafka.common.security.oauthbearer.OAuthBearerToken;
import org.apache.kafka.common.security.oauthbearer.OAuthBearerValidatorCallback;

/**
 * Has a broker let in who brings a token as AWS's signers make it for Amazon MSK in eu-central-1, as long as it holds; who
 * signed it is the principal. It tells on standard error whom it let in or not. Signatures are not checked.
 */
public class IamHandler implements AuthenticateCallbackHandler {
    private static final DateTimeFormatter DATE =
        DateTimeFormatter.ofPattern("yyyyMMdd'T'HHmmss'Z'").withZone(ZoneOffset.UTC);

    private record Token(String value, Set<String> scope, long lifetimeMs, String principalName, Long startTimeMs)
        implements OAuthBearerToken {}

    @Override
    public void configure(Map<String, ?> settings, String mechanism, List<AppConfigurationEntry> entries) {}

    @Override
    public void close() {}

    @Override
    public void handle(Callback[] callbacks) throws UnsupportedCallbackException {
        for (Callback callback : callbacks) {
            if (callback instanceof OAuthBearerValidatorCallback asked) {
                validate(asked);
            } else if (callback instanceof OAuthBearerExtensionsValidatorCallback asked) {
                asked.inputExtensions().map().keySet().forEach(asked::valid);
            } else {
                throw new UnsupportedCallbackException(callback);
            }
        }
    }

    private void validate(OAuthBearerValidatorCallback asked) {
        try {
            Token token = read(asked.tokenValue());
            System.err.println("let in " + token.principalName() + ", signed at " + DATE.format(
                Instant.ofEpochMilli(token.startTimeMs())));
            asked.token(token);
        } catch (RuntimeException e) {
            System.err.println("not let in: " + e.getMessage());
            asked.error("invalid_token", null, null);
        }
    }

    private static Token read(String text) {
        URI address = URI.create(new String(Base64.getUrlDecoder().decode(text), StandardCharsets.UTF_8));
        require("https".equals(address.getScheme()), "it is no address of HTTPS");
        require("kafka.eu-central-1.amazonaws.com".equals(address.getHost()), "it is for " + address.getHost());
        Map<String, String> query = new HashMap<>();
        for (String pair : address.getRawQuery().split("&")) {
            String[] parts = pair.split("=", 2);
            query.put(parts[0], URLDecoder.decode(parts[1], StandardCharsets.UTF_8));
        }
        require("kafka-cluster:Connect".equals(query.get("Action")), "it is for another action");
        require("AWS4-HMAC-SHA256".equals(query.get("X-Amz-Algorithm")), "it is signed in another way");
        require(query.get("X-Amz-Signature").length() == 64, "it has no signature");
        require(query.containsKey("User-Agent"), "it does not say who asks");
        String[] scope = query.get("X-Amz-Credential").split("/");
        require(scope.length == 5 && scope[2].equals("eu-central-1") && scope[3].equals("kafka-cluster"), "another scope");
        long signedMs = Instant.from(DATE.parse(query.get("X-Amz-Date"))).toEpochMilli();
        long endsMs = signedMs + 1000 * Long.parseLong(query.get("X-Amz-Expires"));
        require(System.currentTimeMillis() < endsMs, "it has expired");
        return new Token(text, Set.of(), endsMs, scope[0], signedMs);
    }

    private static void require(boolean holds, String otherwise) {
        if (!holds) {
            throw new IllegalArgumentException(otherwise);
        }
    }
}
