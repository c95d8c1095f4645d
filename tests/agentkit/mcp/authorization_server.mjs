// node-oidc-provider as the authorization server of tests: registration, PKCE, resource indicators, rotation.
//
// node authorization_server.mjs MODULES TTL KIND: prints its issuer. Access tokens live TTL seconds and are of KIND, jwt or
// opaque; those for a resource whose path ends with /opaque are opaque. Its own development pages ask for the login.
import { pathToFileURL } from "node:url";

const [, , modules, ttl, kind] = process.argv;
const { Provider } = await import(pathToFileURL(`${modules}/oidc-provider/lib/index.js`));
const { default: http } = await import("node:http");

const server = http.createServer().listen(0, "127.0.0.1", () => {
    const issuer = `http://127.0.0.1:${server.address().port}`;
    const provider = new Provider(issuer, {
        clients: [
            {
                client_id: "resource-server",
                client_secret: "secret-of-the-resource-server",
                grant_types: ["client_credentials"],
                redirect_uris: [],
                response_types: [],
            },
        ],
        features: {
            clientCredentials: { enabled: true },
            devInteractions: { enabled: true },
            introspection: { enabled: true, allowedPolicy: () => true },
            registration: { enabled: true },
            revocation: { enabled: true, allowedPolicy: () => true },
            resourceIndicators: {
                enabled: true,
                getResourceServerInfo: (context, resource) => ({
                    scope: "mcp:read mcp:write",
                    audience: resource,
                    accessTokenTTL: Number(ttl),
                    accessTokenFormat: resource.endsWith("/opaque") ? "opaque" : kind,
                }),
                useGrantedResource: () => true,
            },
        },
        issueRefreshToken: (context, client) => client.grantTypeAllowed("refresh_token"),
        rotateRefreshToken: true,
        scopes: ["openid", "offline_access", "mcp:read", "mcp:write"],
    });
    provider.on("server_error", (context, error) => console.error(error));
    server.on("request", provider.callback());
    console.log(issuer);
});
process.stdin.on("end", () => process.exit()).resume(); // ends with the test
