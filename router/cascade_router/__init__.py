"""The router: takes prompts, sends them through the cascade of the plan in force, and answers every one."""
