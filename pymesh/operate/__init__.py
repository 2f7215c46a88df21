"""What operators ask a running mesh: its control plane, and the proxies that are connected there, by their admin pages.

Everything is read only. Judgements (`status`, `describe`, `golden`) are functions of pages; `mesh` fetches those.
"""
